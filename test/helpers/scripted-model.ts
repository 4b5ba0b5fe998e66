// SPDX-License-Identifier: MIT
// A deterministic stand-in for the mathematics of the model, with the real one's dependencies: the row of a position depends
// on the window before it, a compressed entry on the rows it covers (csa entries overlap), a sampled token on the row, on all
// entries so far and on the sampling parameters. Any wrong byte in a cache leads to other tokens.

import { BLOCK_TOKENS, WINDOW_TOKENS } from '../../engine/cache/layout.ts';

export function mix(hash: number, value: number): number {
  let h = Math.imul(hash ^ (value | 0), 0x9e3779b1);
  h ^= h >>> 15;
  h = Math.imul(h, 0x85ebca77);
  return (h ^ (h >>> 13)) >>> 0;
}

/** Reads the cached value of a position or of an entry; throws when it is not there. */
export type Reader = (index: number) => number;

export function rowValue(token: number, position: number, row: Reader): number {
  let hash = mix(token, position);
  for (let p = Math.max(0, position - WINDOW_TOKENS + 1); p < position; p++) hash = mix(hash, row(p));
  return hash;
}

/** A csa entry covers positions 4e - 4 .. 4e + 3. */
export function csaEntry(entry: number, row: Reader): number {
  let hash = entry;
  for (let p = Math.max(0, 4 * entry - 4); p <= 4 * entry + 3; p++) hash = mix(hash, row(p));
  return hash;
}

export function hcaEntry(entry: number, row: Reader): number {
  let hash = entry;
  for (let p = BLOCK_TOKENS * entry; p < BLOCK_TOKENS * (entry + 1); p++) hash = mix(hash, row(p));
  return hash;
}

export function outputValue(position: number, row: number, entries: { csa: Reader; hca: Reader }): number {
  let hash = row;
  for (let e = 0; 4 * e + 3 <= position; e++) hash = mix(hash, entries.csa(e));
  for (let e = 0; BLOCK_TOKENS * (e + 1) - 1 <= position; e++) hash = mix(hash, entries.hca(e));
  return hash;
}

export interface Choice {
  vocabSize: number;
  seed: bigint;
  temperature: number;
  allowed: (token: number) => boolean;
  /** Distinct tokens so far with their counts in the output; empty without penalties. */
  counts: ReadonlyMap<number, number>;
}

/** The token behind `position`, drawn with a number keyed by (seed, position + 1). */
export function chooseToken(output: number, position: number, choice: Choice): number {
  let hash = mix(output, position + 1);
  hash = mix(mix(hash, Number(choice.seed & 0xffffffffn)), Number(choice.seed >> 32n));
  hash = mix(hash, choice.temperature * 1000);
  let penalties = 0;
  for (const [token, count] of choice.counts) penalties = (penalties + mix(token, count)) >>> 0;
  let token = mix(hash, penalties) % choice.vocabSize;
  while (!choice.allowed(token)) token = (token + 1) % choice.vocabSize;
  return token;
}

/** The model with all of its history at hand: what a sequence gives when it runs alone, without a cache. */
export class ReferenceModel {
  readonly #rows: number[] = [];
  readonly #csa: number[] = [];
  readonly #hca: number[] = [];

  push(token: number): void {
    const position = this.#rows.length;
    const row: Reader = (p) => this.#rows[p]!;
    this.#rows.push(rowValue(token, position, row));
    if (position % 4 === 3) this.#csa.push(csaEntry(this.#csa.length, row));
    if (position % BLOCK_TOKENS === BLOCK_TOKENS - 1) this.#hca.push(hcaEntry(this.#hca.length, row));
  }

  next(choice: Choice): number {
    const position = this.#rows.length - 1;
    const output = outputValue(position, this.#rows[position]!, { csa: (e) => this.#csa[e]!, hca: (e) => this.#hca[e]! });
    return chooseToken(output, position, choice);
  }
}
