// SPDX-License-Identifier: MIT
// Where the process stands between its first and its last request: loading, ready, draining, failed.

import { EngineError } from '../engine/index.ts';
import type { Engine, LoadProgress } from '../engine/index.ts';

export class Lifecycle {
  #engine: Engine | undefined;
  #progress: LoadProgress = { stage: 'config', fraction: 0, detail: 'starting' };
  #draining = false;

  /** A lifecycle that is ready from the start when an engine is given. */
  constructor(engine?: Engine) {
    if (engine !== undefined) this.ready(engine);
  }

  /** The engine of a request. @throws EngineError LOADING before it is there, CLOSED while draining. */
  engine(): Engine {
    if (this.#draining) throw new EngineError('CLOSED', 'the server is shutting down');
    return this.loaded();
  }

  /** The engine whether draining or not. @throws EngineError LOADING. */
  loaded(): Engine {
    if (this.#engine !== undefined) return this.#engine;
    const percent = Math.floor(this.#progress.fraction * 100);
    throw new EngineError('LOADING', `the model is loading (${this.#progress.stage}, ${percent} %)`, { retryAfterMs: 2000 });
  }

  get isLoaded(): boolean {
    return this.#engine !== undefined;
  }

  get draining(): boolean {
    return this.#draining;
  }

  get progress(): LoadProgress {
    return this.#progress;
  }

  loading(progress: LoadProgress): void {
    this.#progress = progress;
  }

  ready(engine: Engine): void {
    this.#engine = engine;
    this.#progress = { stage: 'ready', fraction: 1, detail: '' };
  }

  /** From now on new requests are refused and readiness is off. */
  drain(): void {
    this.#draining = true;
  }

  /** For probes: `ok` when new requests are served. */
  status(): { ok: boolean; status: 'ok' | 'loading' | 'draining' | 'failed'; reason?: string } {
    if (this.#draining) return { ok: false, status: 'draining' };
    if (this.#engine === undefined) return { ok: false, status: 'loading' };
    const { ok, reason } = this.#engine.health();
    return { ok, status: ok ? 'ok' : 'failed', ...(reason !== undefined && { reason }) };
  }
}
