// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { parseArguments } from '../../../server/cli/arguments.ts';
import { optionsHelp, optionsTable } from '../../../server/cli/options-text.ts';
import { ConfigError, environmentName, flagName, loadConfig, optionKeys } from '../../../server/config.ts';
import { engineOptions } from '../../../server/engine-options.ts';
import { readProject } from '../../helpers/project.ts';

function configFile(value: unknown): string {
  const file = join(mkdtempSync(join(tmpdir(), 'twelvex-')), 'config.json');
  writeFileSync(file, JSON.stringify(value));
  return file;
}

const load = (args: string[], environment: NodeJS.ProcessEnv = {}): ReturnType<typeof loadConfig> =>
  loadConfig(parseArguments(args), environment);

describe('options', () => {
  test('have defaults', () => {
    const config = load([]);
    assert.deepEqual(
      [config.host, config.port, config.bodyLimitBytes, config.keepaliveIntervalMs],
      ['127.0.0.1', 8000, 64 * 2 ** 20, 10_000],
    );
    assert.equal(config.thinking, true);
  });

  test('come from flags, the environment and a file, in this order', () => {
    const file = configFile({ port: 1, tp: 2, 'max-itl': '80ms', 'served-model-name': ['a', 'b'] });
    const config = load(['--config', file, '--port=3'], { TWELVEX_PORT: '2', TWELVEX_TP: '4', TWELVEX_HOST: '' });
    assert.deepEqual([config.port, config.tp, config.maxItlMs, config.host], [3, 4, 80, '127.0.0.1']);
    assert.deepEqual(config.servedModelName, ['a', 'b']);
  });

  test('read sizes, times, lists and switches as people write them', () => {
    const config = load([
      '--kv-memory',
      '1.5GiB',
      '--drain-timeout',
      '120',
      '--max-itl=250ms',
      '--devices',
      '0,1',
      '--no-thinking',
    ]);
    assert.deepEqual([config.kvMemoryBytes, config.drainTimeoutMs, config.maxItlMs], [1.5 * 2 ** 30, 120_000, 250]);
    assert.deepEqual([config.devices, config.thinking], [[0, 1], false]);
    assert.deepEqual(load(['--served-model-name', 'a', '--served-model-name', 'b,c']).servedModelName, ['a', 'b', 'c']);
  });

  test('count as given last, so that flags can be added to those of an image', () => {
    assert.equal(load(['--port', '1', '--port=2']).port, 2);
  });

  test('cannot be changed once read', () => {
    assert.ok(Object.isFrozen(load([])));
  });

  const mistakes: [string, string[], NodeJS.ProcessEnv, RegExp][] = [
    [
      'an unknown flag is answered with the nearest one',
      ['--max-model-length', '5'],
      {},
      /--max-model-length is not an option; did you mean --max-model-len\?/,
    ],
    ['a wrong value names its flag', ['--port', 'many'], {}, /--port: .*0 to 65535, got "many"/],
    ['a wrong value names its variable', [], { TWELVEX_TP: '9' }, /^TWELVEX_TP: /],
    ['a missing value is named', ['--port'], {}, /--port needs a value/],
    ['a wrong word lists the right ones', ['--device', 'tpu'], {}, /auto, cpu, cuda/],
    ['a value without its flag is refused', ['--thinking', 'false'], {}, /unexpected argument "false".*--no-NAME/],
    ['a value of a switch turned off is refused', ['--no-thinking=false'], {}, /--no-thinking takes no value.* --thinking$/],
    ['a file that is not there names its variable', [], { TWELVEX_CONFIG: '/none' }, /^TWELVEX_CONFIG \/none: ENOENT/],
    ['a model without its flag is refused', ['/models/x'], {}, /unexpected argument "\/models\/x".*--model/],
    [
      'a silence of no time is refused',
      ['--keepalive-interval', '0'],
      {},
      /--keepalive-interval: expected a time from 1ms to 24 days/,
    ],
    ['a time that no timer can wait is refused', ['--stall-timeout', '1000h'], {}, /--stall-timeout: expected a time .* 24 days/],
    ['a body of no size is refused', ['--body-limit', '0'], {}, /--body-limit: expected a size/],
    ['an empty name is refused', ['--served-model-name', ''], {}, /--served-model-name: must not be empty/],
    [
      'an origin that no browser sends is refused',
      ['--cors-origin', 'https://a.b/'],
      {},
      /--cors-origin: .*https:\/\/example\.com/,
    ],
    ['a bare host is no origin', ['--cors-origin', 'a.b'], {}, /--cors-origin: .*https:\/\/example\.com/],
    ['a time without sense is refused', ['--max-itl', 'soon'], {}, /a time such as/],
  ];
  for (const [title, args, environment, message] of mistakes) {
    test(title, () => {
      assert.throws(
        () => load(args, environment),
        (error) => error instanceof ConfigError && message.test(error.message),
      );
    });
  }

  test('an unknown name in a file is answered with the nearest one', () => {
    assert.throws(() => load(['--config', configFile({ prot: 1 })]), /prot is not an option; did you mean port\?/);
  });

  test('have names of their own in every place', () => {
    assert.equal(new Set(optionKeys.map(flagName)).size, optionKeys.length);
    assert.equal(new Set(optionKeys.map(environmentName)).size, optionKeys.length);
  });

  test('take origins as browsers send them', () => {
    const origins = ['*', 'null', 'http://localhost:3000', 'chrome-extension://abc'];
    assert.deepEqual(load(['--cors-origin', origins.join()]).corsOrigin, origins);
  });

  test('refuse to leave layers out of real weights', () => {
    assert.throws(() => engineOptions(load(['--layers', '2']), '/models/x', { cuda: false }), /--layers .*--load-format dummy/);
  });

  test('left open are decided by the device', () => {
    const cpu = engineOptions(load(['--device', 'cpu']), '/models/x', { cuda: false });
    assert.deepEqual([cpu.numerics, cpu.kvCache, cpu.modelId, cpu.mtp], ['exact', 'f32', 'demo', -1]);
    const cuda = engineOptions(load(['--device', 'cuda', '--tp', '2', '--kv-cache', 'bf16']), '/models/x', { cuda: true });
    assert.deepEqual([cuda.numerics, cuda.kvCache, cuda.devices], ['served', 'bf16', [0, 1]]);
  });
});

describe('documentation of the options', () => {
  test('--help names every option', () => {
    const help = optionsHelp();
    for (const key of optionKeys) assert.ok(help.includes(flagName(key)), key);
  });

  test('the table of the README is the one that the schema makes', () => {
    const [, table] = /<!-- options -->\n([\s\S]*?)\n<!-- \/options -->/.exec(readProject('README.md')) ?? [];
    assert.equal(table, optionsTable());
  });
});
