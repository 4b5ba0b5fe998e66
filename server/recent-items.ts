// SPDX-License-Identifier: MIT
// Output items of recent responses, for clients that refer to an item by its id instead of sending it back (the AI SDK's
// OpenAI provider does unless store is false). Bounded, in memory only; an id cannot be guessed, so that it is also the
// permission to refer to it.

import type { OutputItem } from './stream/response-events.ts';

const mostCharacters = 16 * 2 ** 20;

export class RecentItems {
  readonly #items = new Map<string, { item: OutputItem; characters: number }>();
  readonly #most: number;
  #characters = 0;

  /** @param most characters of all items together; the oldest make room. */
  constructor(most = mostCharacters) {
    this.#most = most;
  }

  add(item: OutputItem): void {
    const characters = JSON.stringify(item).length;
    if (characters > this.#most) return;
    this.#items.set(item.id, { item, characters });
    this.#characters += characters;
    for (const [id, oldest] of this.#items) {
      if (this.#characters <= this.#most) return;
      this.#items.delete(id);
      this.#characters -= oldest.characters;
    }
  }

  get(id: string): OutputItem | undefined {
    return this.#items.get(id)?.item;
  }
}
