// SPDX-License-Identifier: MIT

/** Distinct tokens of a sequence with their counts in its output (0: only in the prompt), as the step plan wants them. */
export class PenaltyCounts {
  readonly #places = new Map<number, number>();
  #tokens: Int32Array;
  #counts: Int32Array;

  constructor(prompt: Int32Array) {
    this.#tokens = new Int32Array(64);
    this.#counts = new Int32Array(64);
    for (const token of prompt) this.#place(token);
  }

  get tokens(): Int32Array {
    return this.#tokens.subarray(0, this.#places.size);
  }

  get counts(): Int32Array {
    return this.#counts.subarray(0, this.#places.size);
  }

  addOutput(token: number): void {
    const place = this.#place(token);
    this.#counts[place]! += 1;
  }

  #place(token: number): number {
    const known = this.#places.get(token);
    if (known !== undefined) return known;
    const place = this.#places.size;
    if (place === this.#tokens.length) {
      this.#tokens = grown(this.#tokens);
      this.#counts = grown(this.#counts);
    }
    this.#tokens[place] = token;
    this.#places.set(token, place);
    return place;
  }
}

function grown(array: Int32Array): Int32Array {
  const larger = new Int32Array(array.length * 2);
  larger.set(array);
  return larger;
}
