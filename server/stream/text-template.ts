// SPDX-License-Identifier: MIT

import { randomUUID } from 'node:crypto';

/** Nobody can know it and put it into a name that a chunk repeats. */
const mark = randomUUID();

/**
 * JSON of objects that differ in one text only, which is most of what a stream carries: the rest is serialised once. Building
 * and serialising a chunk for every token would be a quarter of the server's work.
 */
export class TextTemplate {
  readonly #parts: string[];

  /** @param sample makes an object that holds the text, once or more */
  constructor(sample: (text: string) => object) {
    this.#parts = JSON.stringify(sample(mark)).split(JSON.stringify(mark));
  }

  json(text: string): string {
    const literal = JSON.stringify(text);
    let json = this.#parts[0]!;
    for (let part = 1; part < this.#parts.length; part++) json += literal + this.#parts[part]!;
    return json;
  }
}
