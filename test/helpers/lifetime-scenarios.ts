// SPDX-License-Identifier: MIT
// Programs of their own for lifetime.test.ts: each ends the process (or a worker) at an awkward moment.
// Usage: node [--expose-gc] lifetime-scenarios.js SCENARIO

import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import type { NativeDriver } from './native-driver.ts';
import { loadAddon } from '../../engine/native.ts';
import type { StepPlan } from '../../engine/native.ts';
import { checkpointOf, driveOracleModel, exactOptions, loadOracleModel } from './oracle.ts';

const long = Array.from({ length: 250 }, (_, i) => (i * 37) % 250);

/** Starts a worker of this file and terminates it once it says that it is busy. */
async function terminatedWorker(task: string): Promise<void> {
  const worker = new Worker(new URL(import.meta.url), { argv: [task] });
  await new Promise((resolve) => worker.once('message', resolve));
  await worker.terminate();
}

/** Starts a step that takes a while, without waiting for it. */
async function stepUnderWay(): Promise<NativeDriver> {
  const driver = await driveOracleModel('tiny');
  const sequence = driver.start(long);
  void driver.step([{ sequence, count: long.length, allLogits: true }]);
  return driver;
}

const scenarios: Record<string, () => Promise<unknown>> = {
  'idle with a model that was never closed': async () => {
    const driver = await driveOracleModel('tiny');
    await driver.step([{ sequence: driver.start(long), count: 3, sample: {} }]);
  },
  'exit with a step under way': async () => {
    await stepUnderWay();
    process.exit(0);
  },
  'exit with steps queued and a close behind them': async () => {
    const driver = await stepUnderWay();
    void driver.step([{ sequence: driver.start(long), count: 100 }]);
    void driver.model.close();
    process.exit(0);
  },
  'exit right after asking for a load': async () => {
    for (let i = 0; i < 4; i += 1) void loadOracleModel('tiny');
    process.exit(0);
  },
  'exit while loading': async () => {
    void loadOracleModel('demo');
    await sleep(5);
    process.exit(0);
  },
  'a progress callback that throws': async () => {
    const thrown: string[] = [];
    process.on('uncaughtException', (error) => thrown.push(error.message));
    const load = loadAddon().loadModel(checkpointOf('tiny'), exactOptions, () => {
      throw new Error('from the callback');
    });
    await (await load).close();
    if (thrown[0] !== 'from the callback') throw new Error(`uncaught: ${thrown.join(', ')}`);
  },
  'a failed load': async () => {
    await loadOracleModel('tiny', { tp: 99 }).then(
      () => process.exit(9),
      () => undefined,
    );
  },
  'a worker that ends with a step under way': async () => {
    await terminatedWorker('step');
  },
  'workers that are terminated amid calls': async () => {
    for (let i = 0; i < 5; i += 1) await terminatedWorker('calls');
  },
  'a worker and the main thread with a model each': async () => {
    const driver = await driveOracleModel('tiny');
    const worker = new Worker(new URL(import.meta.url), { argv: ['worker'] });
    await new Promise((resolve) => worker.once('message', resolve));
    await driver.step([{ sequence: driver.start(long), count: 200, sample: {} }]);
    await worker.terminate();
    await driver.step([{ sequence: driver.start(long), count: 200, sample: {} }]);
    await driver.model.close();
  },
  'models that are collected without being closed': async () => {
    for (let i = 0; i < 12; i += 1) {
      await driveOracleModel('tiny');
      await sleep(1);
      globalThis.gc!();
    }
    await sleep(20);
    globalThis.gc!();
    await sleep(20);
    const used = process.memoryUsage.rss() / 2 ** 20;
    if (used > 900) throw new Error(`12 collected models leave ${used.toFixed(0)} MiB resident`);
  },
};

if (isMainThread) {
  await scenarios[process.argv[2]!]!();
} else {
  const { model } = await stepUnderWay();
  parentPort!.postMessage('busy');
  while (process.argv[2] === 'calls') model.step({} as StepPlan).catch(() => undefined);
}
