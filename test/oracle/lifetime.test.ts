// SPDX-License-Identifier: MIT
// The addon's lifetime: closing, collection, and processes and workers that end at awkward moments.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { suite, test } from 'node:test';
import { loadAddon } from '../../engine/native.ts';
import { driveOracleModel, exactOptions, loadOracleModel, readOracle } from '../helpers/oracle.ts';

const scenarioFile = fileURLToPath(
  new URL(`../helpers/lifetime-scenarios${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url),
);

suite('a process ends cleanly', () => {
  for (const scenario of [
    'idle with a model that was never closed',
    'exit with a step under way',
    'exit with steps queued and a close behind them',
    'exit right after asking for a load',
    'exit while loading',
    'a progress callback that throws',
    'a failed load',
    'a worker that ends with a step under way',
    'workers that are terminated amid calls',
    'a worker and the main thread with a model each',
    'models that are collected without being closed',
  ]) {
    test(scenario, async () => {
      const child = spawn(process.execPath, ['--expose-gc', scenarioFile, scenario], { stdio: ['ignore', 'pipe', 'pipe'] });
      let output = '';
      child.stdout.on('data', (data: Buffer) => (output += data.toString()));
      child.stderr.on('data', (data: Buffer) => (output += data.toString()));
      const ended = await new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal })));
      assert.deepEqual(ended, { code: 0, signal: null }, output);
      assert.equal(output, '', 'nothing is printed');
    });
  }
});

suite('a model', () => {
  const tokens = readOracle('tiny').sequences[0]!.tokens;

  test('finishes the step under way before it closes, then refuses more', async () => {
    const driver = await driveOracleModel('tiny');
    const order: string[] = [];
    const step = driver.step([{ sequence: driver.start(tokens), count: 250, sample: {} }]).then(() => order.push('step'));
    const closed = driver.model.close().then(() => order.push('first close'));
    const again = driver.model.close().then(() => order.push('second close'));
    await assert.rejects(driver.model.step(driver.plan([])), { code: 'CLOSED' });
    await Promise.all([step, closed, again]);
    assert.deepEqual(order, ['step', 'first close', 'second close']);
    await driver.model.close();
    await assert.rejects(driver.model.allocateCache({ slots: 1, windowBlocks: 1, contextBlocks: 1 }), { code: 'CLOSED' });
  });

  test('runs steps that were posted together in their order', async () => {
    const driver = await driveOracleModel('tiny');
    const sequence = driver.start(tokens);
    const first = driver.model.step(driver.plan([{ sequence, count: 100 }]));
    sequence.computed = 100;
    const second = driver.model.step(driver.plan([{ sequence, count: 100, sample: {} }]));
    const [, result] = await Promise.all([first, second]);
    assert.equal(result.acceptedCount[0], 1);
    await driver.model.close();
  });

  test('tells what it is', async () => {
    const fractions: number[] = [];
    const model = await loadAddon().loadModel('test/oracle/tiny', { ...exactOptions, tp: 2 }, (fraction, detail) => {
      assert.equal(typeof detail, 'string');
      fractions.push(fraction);
    });
    assert.deepEqual(fractions, [...fractions].sort(), 'progress never falls');
    assert.equal(fractions.at(-1), 1);
    assert.equal(model.vocabSize, 256);
    assert.equal(model.mtp, 2);
    assert.match(model.fingerprint, /^[0-9a-f]{16}$/);
    assert.ok(model.weightBytes > 6e6 && model.weightBytes < 7e6);
    assert.equal(model.memory().length, 2);
    assert.ok(model.memory().every(({ freeBytes, totalBytes }) => freeBytes > 0 && totalBytes >= freeBytes));
    await model.close();
  });

  test('has one fingerprint for the same weights and another for others', async () => {
    const fingerprints: string[] = [];
    for (const [name, changes] of [
      ['tiny', {}],
      ['tiny', { numerics: 'served' }],
      ['tiny', { layers: 2 }],
      ['small', {}],
      ['tiny', { loadFormat: 'dummy' }],
      ['tiny', { loadFormat: 'dummy', dummySeed: 1 }],
    ] as const) {
      const model = await loadOracleModel(name, changes);
      fingerprints.push(model.fingerprint);
      await model.close();
    }
    assert.equal(fingerprints[0], fingerprints[1]);
    assert.equal(new Set(fingerprints).size, 5);
  });

  test('refuses a step before the cache is allocated, and a second allocation', async () => {
    const model = await loadOracleModel('tiny');
    const plan = { slots: 1, windowBlocks: 2, contextBlocks: 2 };
    const empty = await driveOracleModel('tiny');
    await assert.rejects(model.step(empty.plan([{ sequence: empty.start(tokens), count: 1 }])), { code: 'INVALID_PLAN' });
    await model.allocateCache(plan);
    await assert.rejects(model.allocateCache(plan), { code: 'BAD_OPTIONS' });
    await Promise.all([model.close(), empty.model.close()]);
  });
});

suite('loading refuses', () => {
  const wrong: [what: string, changes: Record<string, unknown>, message: RegExp][] = [
    ['no ranks', { tp: 0 }, /tp is 0, expected 1 to 16/],
    ['too many drafts', { mtp: 5 }, /mtp is 5, expected 0 to 4/],
    ['more layers than there are', { layers: 5 }, /layers is 5, expected 0 to 4/],
    ['a context beyond the checkpoint', { contextTokens: 2 ** 21 }, /contextTokens is 2097152, expected 1 to 1048576/],
    ['an unknown device', { device: 'tpu' }, /device is "tpu", expected one of cpu, cuda/],
    ['a fraction of a row', { maxRows: 1.5 }, /maxRows must be a whole number/],
    ['a device list of another length', { devices: [0, 1, 2], tp: 2 }, /devices lists 3 devices, tp is 2/],
  ];
  for (const [what, changes, message] of wrong) {
    test(what, async () => {
      await assert.rejects(loadOracleModel('tiny', changes), (error: Error & { code?: string }) => {
        assert.equal(error.code, 'BAD_OPTIONS');
        assert.match(error.message, message);
        return true;
      });
    });
  }

  test('weights that the host has no memory for, before it reads them', async () => {
    const trunk = loadAddon()
      .inspect('test/oracle/tiny')
      .tensors.filter(({ kind }) => kind !== 'mtp');
    const needed = 2 * trunk.reduce((sum, { parameters }) => sum + parameters, 0);
    await assert.rejects(loadOracleModel('tiny', { mtp: 0, hostBytes: needed - 1 }), {
      code: 'OUT_OF_MEMORY',
      message: /the weights need \d+ MiB as the CPU backend keeps them/,
    });
    await (await loadOracleModel('tiny', { mtp: 0, hostBytes: needed })).close();
  });

  test('a folder without a checkpoint', async () => {
    await assert.rejects(loadAddon().loadModel('/nowhere', exactOptions, () => undefined), { code: 'BAD_CHECKPOINT' });
  });
});

suite('the addon', () => {
  test('inspects a checkpoint without loading it', () => {
    const info = loadAddon().inspect('test/oracle/tiny');
    assert.deepEqual(info.config.layers, ['swa', 'csa', 'hca', 'csa']);
    assert.equal(info.config.vocabSize, 256);
    assert.equal(info.weightsPresent, true);
    assert.ok(info.tensors.some(({ kind, dtype }) => kind === 'routed experts' && dtype === 'FP4'));
    assert.equal(info.cache.length, 6);
    assert.throws(() => loadAddon().inspect('/nowhere'), { code: 'BAD_CHECKPOINT' });
  });

  test('says how it was built', () => {
    const info = loadAddon().buildInfo();
    assert.match(info.version, /^\d+\.\d+\.\d+/);
    assert.equal(info.cuda, info.cudaArchs.length > 0);
    assert.ok(info.cpu.length > 0);
  });
});
