// SPDX-License-Identifier: MIT
// HTTPS with a certificate from files that may be replaced while the server runs.

import { readFileSync } from 'node:fs';
import type { Server } from 'node:https';
import { createSecureContext } from 'node:tls';
import type { FastifyInstance } from 'fastify';
import { ConfigError } from './config.ts';
import type { Config } from './config.ts';
import { fileState, watchFile } from './file-watch.ts';

const watchIntervalMs = 5000;

export interface Certificate {
  cert: Buffer;
  key: Buffer;
}

/**
 * Undefined when no certificate is given: the server then speaks HTTP.
 * @throws ConfigError when only one of the files is given, or one cannot be read or used.
 */
export function readCertificate({ tlsCert, tlsKey }: Pick<Config, 'tlsCert' | 'tlsKey'>): Certificate | undefined {
  if (tlsCert === undefined && tlsKey === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined) throw new ConfigError('--tls-cert and --tls-key belong together');
  try {
    const pair = { cert: readFileSync(tlsCert), key: readFileSync(tlsKey) };
    createSecureContext(pair);
    return pair;
  } catch (error) {
    const files = `--tls-cert ${tlsCert}, --tls-key ${tlsKey}`;
    throw new ConfigError(`${files}: expected a certificate and its private key in PEM: ${(error as Error).message}`);
  }
}

/** New connections get a replaced certificate. One that does not read or fit leaves the old one in place. */
export function followCertificate(
  app: FastifyInstance,
  config: Pick<Config, 'tlsCert' | 'tlsKey'>,
  intervalMs = watchIntervalMs,
): void {
  const { tlsCert, tlsKey } = config;
  if (tlsCert === undefined || tlsKey === undefined) return;
  const onChange = (): void => {
    try {
      (app.server as unknown as Server).setSecureContext(readCertificate(config)!);
      app.log.info('the certificate was read again');
    } catch (error) {
      app.log.error({ err: error }, 'the certificate cannot be used; the old one stays');
    }
  };
  // Both are followed: where one is replaced a while before the other, they fit only once both are.
  for (const file of [tlsCert, tlsKey]) {
    const watch = watchFile({ file, since: fileState(file), intervalMs, onChange });
    app.addHook('onClose', async () => watch.stop());
  }
}
