// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'node:tls';
import { buildApp } from '../../../server/app.ts';
import { ConfigError, loadConfig } from '../../../server/config.ts';
import { Lifecycle } from '../../../server/lifecycle.ts';
import { followCertificate, readCertificate } from '../../../server/tls.ts';
import { scriptedEngine } from '../../helpers/scripted-engine.ts';

const openssl = spawnSync('openssl', ['version']).status === 0;

function certificate(): { tlsCert: string; tlsKey: string } {
  const folder = mkdtempSync(join(tmpdir(), 'twelvex-'));
  const [tlsCert, tlsKey] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  const subject = ['-subj', '/CN=localhost', '-days', '2'];
  spawnSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', tlsKey, '-out', tlsCert, ...subject]);
  return { tlsCert, tlsKey };
}

describe('HTTPS', () => {
  test('is served with the given certificate', { skip: openssl ? false : 'openssl is not installed' }, async (t) => {
    const app = buildApp(new Lifecycle(scriptedEngine([])), loadConfig({ values: certificate() }, {}));
    await app.listen({ host: '127.0.0.1', port: 0 });
    t.after(() => app.close());
    const { port } = app.server.address() as AddressInfo;
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const request = get({ port, path: '/health', rejectUnauthorized: false, agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      request.on('error', reject);
    });
    assert.equal(status, 200);
  });

  test('follows its files, whichever is replaced first', { skip: openssl ? false : 'openssl is not installed' }, async (t) => {
    const [files, next] = [certificate(), certificate()];
    const app = buildApp(new Lifecycle(scriptedEngine([])), loadConfig({ values: files }, {}));
    followCertificate(app, files, 20);
    await app.listen({ host: '127.0.0.1', port: 0 });
    t.after(() => app.close());
    const { port } = app.server.address() as AddressInfo;
    const served = async (): Promise<string> => {
      const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
      await once(socket, 'secureConnect');
      const { fingerprint256 } = socket.getPeerCertificate();
      socket.destroy();
      return fingerprint256;
    };
    const first = await served();
    copyFileSync(next.tlsCert, files.tlsCert);
    await sleep(150);
    assert.equal(await served(), first, 'a certificate without its key is not used');
    copyFileSync(next.tlsKey, files.tlsKey);
    for (const until = performance.now() + 3000; (await served()) === first && performance.now() < until;) await sleep(20);
    assert.equal(await served(), new X509Certificate(readFileSync(next.tlsCert)).fingerprint256);
  });

  test('needs both files, and says which cannot be read', () => {
    assert.throws(() => readCertificate({ tlsCert: '/a', tlsKey: undefined }), /belong together/);
    assert.throws(
      () => readCertificate({ tlsCert: '/no/cert', tlsKey: '/no/key' }),
      (error) => error instanceof ConfigError && /\/no\/cert/.test(error.message),
    );
    const noPem = join(mkdtempSync(join(tmpdir(), 'twelvex-')), 'cert.pem');
    writeFileSync(noPem, 'not PEM');
    assert.throws(
      () => readCertificate({ tlsCert: noPem, tlsKey: noPem }),
      (error) => error instanceof ConfigError && /--tls-cert.*cert\.pem.*PEM/.test(error.message),
    );
  });
});
