// SPDX-License-Identifier: MIT

import type { GenerationEvent } from './types.ts';

/** Events a reader may leave unread before its sequences are paused. */
export const MAX_UNREAD_EVENTS = 1024;

/**
 * Events of one request on their way to its reader. A reader takes everything that is there at once. It never loses
 * events: when it stalls, `onStall` lets the engine pause the sequences, which bounds what can pile up to
 * MAX_UNREAD_EVENTS and the events of one step; `onRead` tells that it reads again.
 */
export class EventStream {
  #unread: GenerationEvent[] = [];
  #closed = false;
  #stalled = false;
  #wake: (() => void) | undefined;
  readonly #onStall: () => void;
  readonly #onRead: () => void;

  constructor(handlers: { onStall: () => void; onRead: () => void }) {
    this.#onStall = handlers.onStall;
    this.#onRead = handlers.onRead;
  }

  push(events: readonly GenerationEvent[]): void {
    if (this.#closed || events.length === 0) return;
    for (const event of events) this.#unread.push(event);
    this.#wake?.();
    if (this.#stalled || this.#unread.length < MAX_UNREAD_EVENTS) return;
    this.#stalled = true;
    this.#onStall();
  }

  /** No more events. */
  close(): void {
    this.#closed = true;
    this.#wake?.();
  }

  /** All events since the last call, waiting for at least one; undefined at the end. */
  async next(): Promise<GenerationEvent[] | undefined> {
    while (this.#unread.length === 0) {
      if (this.#closed) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
    const events = this.#unread;
    this.#unread = [];
    if (this.#stalled) {
      this.#stalled = false;
      this.#onRead();
    }
    return events;
  }
}
