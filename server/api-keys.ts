// SPDX-License-Identifier: MIT
// API keys from options and from a file that may change while the server runs.

import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyBaseLogger } from 'fastify';
import { ConfigError } from './config.ts';
import type { Config } from './config.ts';
import { fileState, watchFile } from './file-watch.ts';
import type { FileWatch } from './file-watch.ts';

const watchIntervalMs = 1000;

const digest = (key: string): Buffer => createHash('sha256').update(key).digest();

/** One key a line; empty lines and lines that start with # are left out. */
function readKeys(file: string): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

export class ApiKeys {
  readonly #own: Buffer[];
  readonly #file: string | undefined;
  readonly #readState: string = '';
  #fromFile: Buffer[] = [];

  /** @throws ConfigError when the file cannot be read. */
  constructor(config: Pick<Config, 'apiKey' | 'apiKeyFile'>) {
    this.#own = config.apiKey.map(digest);
    this.#file = config.apiKeyFile;
    if (this.#file === undefined) return;
    this.#readState = fileState(this.#file);
    try {
      this.#fromFile = readKeys(this.#file).map(digest);
    } catch (error) {
      throw new ConfigError(`--api-key-file: ${(error as Error).message}`);
    }
  }

  /** Requests need a key. A file that has become empty lets nobody in rather than everybody. */
  get required(): boolean {
    return this.#own.length > 0 || this.#file !== undefined;
  }

  /** Reads the file again when it changes, until stopped. A file that cannot be read leaves the keys as they were. */
  watch(logger: FastifyBaseLogger): FileWatch {
    const file = this.#file;
    if (file === undefined) return { stop: () => undefined };
    const onChange = (): void => {
      try {
        this.#fromFile = readKeys(file).map(digest);
        logger.info({ keys: this.#fromFile.length }, 'API keys were read again');
      } catch (error) {
        logger.error({ err: error }, 'the file of API keys cannot be read; the keys stay as they were');
      }
    };
    return watchFile({ file, since: this.#readState, intervalMs: watchIntervalMs, onChange });
  }

  /** True when no key is needed or the request brings a known one, as a bearer token or in x-api-key. */
  allows(headers: IncomingHttpHeaders): boolean {
    return !this.required || this.keyOf(headers) !== undefined;
  }

  /** The known key that a request brings, as its digest; undefined when it brings none. */
  keyOf(headers: IncomingHttpHeaders): string | undefined {
    const bearer = /^Bearer\s+(\S+)$/i.exec(headers.authorization ?? '')?.[1];
    const own = headers['x-api-key'];
    const known = [bearer, own].find((key) => typeof key === 'string' && this.#knows(key));
    return typeof known === 'string' ? digest(known).toString('hex') : undefined;
  }

  /** Compares with every key, so that the time taken says nothing about which one came close. */
  #knows(key: string): boolean {
    const given = digest(key);
    return [...this.#own, ...this.#fromFile].reduce((found, known) => timingSafeEqual(given, known) || found, false);
  }
}
