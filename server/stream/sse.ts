// SPDX-License-Identifier: MIT
// Server-sent events on a raw response: frames, keepalive comments by wall clock, back-pressure, stalled readers.
//
// On OpenAI's routes comments are the only keepalive that every client ignores; `event:`, `id:` and `retry:` lines break
// some, so none is sent there.

import type { ServerResponse } from 'node:http';

export interface SseOptions {
  /** Silence after which a comment goes out. */
  keepaliveIntervalMs: number;
  /** A reader that takes nothing for this long is cut off. */
  stallTimeoutMs: number;
  headers: Record<string, string>;
  /**
   * data: OpenAI's frames without names, comments as keepalive, [DONE] at the end.
   * named: every frame carries its payload's `type` as event name, pings as keepalive, no end mark (Anthropic, Responses).
   */
  framing: 'data' | 'named';
  /** Events that keep the connection alive; a comment where there are none. */
  ping?: () => readonly object[];
}

export class SseWriter {
  readonly #raw: ServerResponse;
  readonly #options: SseOptions;
  #keepalive: NodeJS.Timeout | undefined;

  constructor(raw: ServerResponse, options: SseOptions) {
    this.#raw = raw;
    this.#options = options;
  }

  /** Commits status 200 and sends the headers at once, so that a client in the queue sees that it was accepted. */
  open(): void {
    this.#raw.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      connection: 'keep-alive',
      'x-accel-buffering': 'no',
      ...this.#options.headers,
    });
    this.#raw.flushHeaders();
    this.#keepalive = setTimeout(() => this.#comment(), this.#options.keepaliveIntervalMs);
    this.#raw.once('close', () => clearTimeout(this.#keepalive));
  }

  get isOpen(): boolean {
    return this.#raw.headersSent;
  }

  /**
   * Writes one frame for each object, all in one piece, and waits while the client is slow to read.
   * Returns without writing when the connection is gone.
   */
  async send(payloads: readonly object[]): Promise<void> {
    if (payloads.length === 0 || this.#raw.destroyed) return;
    this.#keepalive?.refresh();
    if (!this.#raw.write(this.#frames(payloads))) await this.#drained();
  }

  /** Writes the last objects and the end mark in one piece, and ends the response. */
  end(payloads: readonly object[] = []): void {
    clearTimeout(this.#keepalive);
    if (this.#raw.destroyed) return;
    this.#raw.end(this.#frames(payloads) + (this.#options.framing === 'data' ? 'data: [DONE]\n\n' : ''));
    this.#cutWhenStalled();
  }

  #frames(payloads: readonly object[]): string {
    const name = (payload: object): string =>
      this.#options.framing === 'named' ? `event: ${(payload as { type: string }).type}\n` : '';
    return payloads.map((payload) => `${name(payload)}data: ${JSON.stringify(payload)}\n\n`).join('');
  }

  #comment(): void {
    if (this.#raw.destroyed) return;
    const { ping } = this.#options;
    // A reader that does not even take what there is needs no reminder; the stall timer watches it.
    if (!this.#raw.writableNeedDrain) this.#raw.write(ping === undefined ? ': keep-alive\n\n' : this.#frames(ping()));
    this.#keepalive?.refresh();
  }

  /** Resolves when the client has read on or is gone; cuts it off when it does neither. */
  #drained(): Promise<void> {
    return new Promise((resolve) => {
      const stalled = setTimeout(() => this.#raw.destroy(), this.#options.stallTimeoutMs);
      const done = (): void => {
        clearTimeout(stalled);
        this.#raw.off('drain', done);
        this.#raw.off('close', done);
        resolve();
      };
      this.#raw.once('drain', done);
      this.#raw.once('close', done);
    });
  }

  #cutWhenStalled(): void {
    const stalled = setTimeout(() => this.#raw.destroy(), this.#options.stallTimeoutMs);
    this.#raw.once('close', () => clearTimeout(stalled));
    this.#raw.once('finish', () => clearTimeout(stalled));
  }
}
