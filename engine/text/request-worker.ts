// SPDX-License-Identifier: MIT

import { Worker, type MessagePort, type Transferable } from 'node:worker_threads';

/** The worker itself failed: it ran out of time, or broke. It is gone, with everything in it. */
export class WorkerLost extends Error {
  constructor(reason: string) {
    super(reason);
    this.name = 'WorkerLost';
  }
}

/** It was given up because a request took longer than its limit. */
export class WorkerTimeout extends WorkerLost {}

/** An error that leaves the worker unusable. */
export class FatalError extends Error {}

type ToWorker<Query> = { id: number; query: Query } | { id: number; cancelled: true };

type FromWorker<Answer> = { id: number; answer: Answer } | { id: number; error: string; fatal: boolean };

interface Pending<Answer> {
  resolve(answer: Answer): void;
  reject(error: unknown): void;
}

export interface RequestOptions {
  /** The worker is given up when it takes longer. */
  timeLimitMs?: number;
  signal?: AbortSignal;
}

/** A worker thread that answers requests. It keeps the process alive only while it has some to answer. */
export class RequestWorker<Query, Answer> {
  private readonly worker: Worker;
  private readonly pending = new Map<number, Pending<Answer>>();
  private lost: WorkerLost | undefined;
  private nextId = 0;

  /** @param file compiled module that calls `answerRequests` */
  constructor(file: URL, workerData: unknown) {
    this.worker = new Worker(file, { workerData, execArgv: [] });
    this.worker.unref();
    this.worker.on('message', (message: FromWorker<Answer>) => this.receive(message));
    this.worker.on('error', (error) => this.lose(error.message));
    this.worker.on('exit', () => this.lose('the worker thread has ended'));
  }

  get alive(): boolean {
    return this.lost === undefined;
  }

  /** @throws WorkerLost, what the signal was aborted with, a DataCloneError, or an Error with the worker's reason */
  async request(query: Query, { timeLimitMs, signal }: RequestOptions = {}): Promise<Answer> {
    signal?.throwIfAborted();
    if (this.lost !== undefined) throw this.lost;
    const id = this.nextId++;
    const timer = timeLimitMs === undefined ? undefined : setTimeout(() => this.timeOut(timeLimitMs), timeLimitMs);
    const abort = (): void => this.cancel(id, signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await new Promise<Answer>((resolve, reject) => {
        this.post({ id, query }); // throws what cannot be cloned; nobody then answers
        this.pending.set(id, { resolve, reject });
        this.worker.ref();
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }

  async terminate(): Promise<void> {
    this.lose('the worker thread is closed');
    await this.worker.terminate();
  }

  private post(message: ToWorker<Query>): void {
    this.worker.postMessage(message);
  }

  private cancel(id: number, reason: unknown): void {
    this.take(id)?.reject(reason);
    this.post({ id, cancelled: true });
  }

  private timeOut(timeLimitMs: number): void {
    this.lose(new WorkerTimeout(`no answer within ${timeLimitMs} ms`));
    void this.worker.terminate();
  }

  private receive(message: FromWorker<Answer>): void {
    const pending = this.take(message.id);
    if ('answer' in message) pending?.resolve(message.answer);
    else if (!message.fatal) pending?.reject(new Error(message.error));
    else {
      pending?.reject(new WorkerLost(message.error));
      this.lose(message.error);
      void this.worker.terminate();
    }
  }

  private take(id: number): Pending<Answer> | undefined {
    const pending = this.pending.get(id);
    this.pending.delete(id);
    // A lost worker is about to end, and whoever ends it waits for that.
    if (this.pending.size === 0 && this.alive) this.worker.unref();
    return pending;
  }

  private lose(reason: string | WorkerLost): void {
    this.lost ??= typeof reason === 'string' ? new WorkerLost(reason) : reason;
    for (const id of [...this.pending.keys()]) this.take(id)?.reject(this.lost);
  }
}

export interface Answered<Answer> {
  answer: Answer;
  transfer?: Transferable[];
}

/** The worker's side. Requests are handled at the same time; `signal` says that nobody waits any more. */
export function answerRequests<Query, Answer>(
  port: MessagePort,
  handle: (query: Query, signal: AbortSignal) => Promise<Answered<Answer>>,
): void {
  const running = new Map<number, AbortController>();
  const answer = async (id: number, query: Query): Promise<void> => {
    const controller = new AbortController();
    running.set(id, controller);
    try {
      const { answer, transfer } = await handle(query, controller.signal);
      port.postMessage({ id, answer } satisfies FromWorker<Answer>, transfer);
    } catch (error) {
      const fatal = error instanceof FatalError;
      port.postMessage({ id, error: (error as Error).message, fatal } satisfies FromWorker<Answer>);
    } finally {
      running.delete(id);
    }
  };
  port.on('message', (message: ToWorker<Query>) => {
    if ('cancelled' in message) running.get(message.id)?.abort();
    else void answer(message.id, message.query);
  });
}
