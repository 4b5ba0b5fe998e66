// SPDX-License-Identifier: MIT
// Server-sent events on a raw response: frames, keepalive comments by wall clock, back-pressure, stalled readers.
//
// On OpenAI's routes comments are the only keepalive that every client ignores; `event:`, `id:` and `retry:` lines break
// some, so none is sent there.
//
// Chunks of HTTP's chunked encoding are framed here: Node.js would hand four pieces a token to the system (length, line end,
// text, line end), which takes twice as long as one string.

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

/** What a frame carries: an object, or its JSON where that is made more cheaply. Named frames are objects. */
export type Payload = object | string;

export class SseWriter {
  readonly #raw: ServerResponse;
  readonly #options: SseOptions;
  #keepalive: NodeJS.Timeout | undefined;
  #chunked = false;
  #draining: Promise<void> | undefined;

  constructor(raw: ServerResponse, options: SseOptions) {
    this.#raw = raw;
    this.#options = options;
  }

  /** Commits status 200 and sends the headers at once, so that a client in the queue sees that it was accepted. */
  open(): void {
    this.#raw.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
      ...this.#options.headers,
    });
    this.#raw.flushHeaders();
    this.#chunked = this.#raw.chunkedEncoding;
    this.#raw.chunkedEncoding = false;
    this.#keepalive = setTimeout(() => this.#comment(), this.#options.keepaliveIntervalMs);
    this.#raw.once('close', () => clearTimeout(this.#keepalive));
  }

  /**
   * Writes one frame for each payload, all in one piece; nothing when the connection is gone.
   * @returns what to wait for before more is sent, when the client is slow to read.
   */
  send(payloads: readonly Payload[]): Promise<void> | undefined {
    if (payloads.length === 0 || this.#raw.destroyed) return undefined;
    this.#keepalive?.refresh();
    if (this.#write(this.#frames(payloads))) return undefined;
    return (this.#draining ??= this.#drained().finally(() => (this.#draining = undefined)));
  }

  /** Writes the last payloads and the end mark in one piece, and ends the response. */
  end(payloads: readonly Payload[] = []): void {
    clearTimeout(this.#keepalive);
    if (this.#raw.destroyed) return;
    const last = this.#frames(payloads) + (this.#options.framing === 'data' ? 'data: [DONE]\n\n' : '');
    this.#raw.end((last === '' ? '' : this.#chunk(last, Buffer.byteLength(last))) + (this.#chunked ? '0\r\n\r\n' : ''));
    this.#cutWhenStalled();
  }

  #frames(payloads: readonly Payload[]): string {
    let frames = '';
    for (const payload of payloads) {
      if (this.#options.framing === 'named') frames += `event: ${(payload as { type: string }).type}\n`;
      frames += `data: ${typeof payload === 'string' ? payload : JSON.stringify(payload)}\n\n`;
    }
    return frames;
  }

  /** A piece of the body as it goes over the connection; a client of HTTP/1.0 gets it bare. */
  #chunk(text: string, bytes: number): string {
    return this.#chunked ? `${bytes.toString(16)}\r\n${text}\r\n` : text;
  }

  /** ASCII is written as Latin-1, which is the same bytes: Node.js then neither counts nor converts them once more. */
  #write(text: string): boolean {
    const bytes = Buffer.byteLength(text);
    return this.#raw.write(this.#chunk(text, bytes), bytes === text.length ? 'latin1' : 'utf8');
  }

  #comment(): void {
    if (this.#raw.destroyed) return;
    const { ping } = this.#options;
    // A reader that does not even take what there is needs no reminder; the stall timer watches it.
    const sign = ping === undefined ? ': keep-alive\n\n' : this.#frames(ping());
    if (!this.#raw.writableNeedDrain) this.#write(sign);
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
