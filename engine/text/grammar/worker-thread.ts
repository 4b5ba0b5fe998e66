// SPDX-License-Identifier: MIT

import { Worker } from 'node:worker_threads';
import type { StepMasks, WorkerReply, WorkerRequest, WorkerSetup } from './protocol.ts';

/** The worker itself failed: it ran out of time, or WebAssembly aborted. It is gone, with everything in it. */
export class WorkerLost extends Error {
  constructor(reason: string) {
    super(reason);
    this.name = 'WorkerLost';
  }
}

interface Pending {
  resolve(masks: StepMasks | undefined): void;
  reject(error: Error): void;
}

/** A worker with requests and replies. It does not keep the process alive. */
export class WorkerThread {
  private readonly worker: Worker;
  private readonly pending = new Map<number, Pending>();
  private lost: WorkerLost | undefined;
  private nextId = 0;
  /** Settles when the vocabulary is prepared. */
  readonly started: Promise<void>;

  constructor(setup: WorkerSetup) {
    this.worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: setup, execArgv: [] });
    this.worker.unref();
    this.worker.on('message', (reply: WorkerReply) => this.settle(reply));
    this.worker.on('error', (error) => this.lose(error.message));
    this.worker.on('exit', () => this.lose('the grammar worker has ended'));
    this.started = this.request({ kind: 'start' }).then(() => undefined);
    // Whoever waits for the start hears of the failure; nobody may be waiting.
    this.started.catch(() => undefined);
  }

  get alive(): boolean {
    return this.lost === undefined;
  }

  /**
   * @param timeLimitMs the worker is given up when it takes longer
   * @throws WorkerLost, or an Error with the worker's reason
   */
  request(request: WorkerRequest, timeLimitMs?: number): Promise<StepMasks | undefined> {
    if (this.lost !== undefined) return Promise.reject(this.lost);
    const id = this.nextId++;
    const limit = timeLimitMs === undefined ? undefined : setTimeout(() => this.timeOut(timeLimitMs), timeLimitMs);
    return new Promise<StepMasks | undefined>((resolve, reject) => {
      this.pending.set(id, { resolve, reject });
      this.worker.postMessage({ id, request });
    }).finally(() => clearTimeout(limit));
  }

  async terminate(): Promise<void> {
    this.lose('the grammar worker is closed');
    await this.worker.terminate();
  }

  private timeOut(timeLimitMs: number): void {
    this.lose(`compiling takes longer than ${timeLimitMs} ms`);
    void this.worker.terminate();
  }

  private settle({ id, masks, error, fatal }: WorkerReply): void {
    const pending = this.pending.get(id);
    this.pending.delete(id);
    if (fatal) {
      const reason = error ?? 'the grammar library aborted';
      pending?.reject(new WorkerLost(reason));
      this.lose(reason);
      void this.worker.terminate();
    } else if (error !== undefined) pending?.reject(new Error(error));
    else pending?.resolve(masks);
  }

  private lose(reason: string): void {
    this.lost ??= new WorkerLost(reason);
    for (const { reject } of this.pending.values()) reject(this.lost);
    this.pending.clear();
  }
}
