// SPDX-License-Identifier: MIT

/**
 * How long the contents of a block nobody holds are worth keeping. Blocks are taken in this order:
 * `blank` has no findable contents, `cold` is findable but unlikely to be asked for, `hot` is kept longest.
 * Within a class the one released longest ago goes first.
 */
export type Warmth = 'blank' | 'cold' | 'hot';

const CLASSES: readonly Warmth[] = ['blank', 'cold', 'hot'];

/**
 * Reference-counted blocks of one kind. A block with no holder is available: it can be taken for new contents, or, until
 * then, be held again for the contents it still has.
 */
export class BlockPool {
  readonly size: number;
  readonly #references: Int32Array;
  /** Doubly linked rings of available blocks, one sentinel (size + class) for each class of warmth. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #onTake: (block: number) => void;
  #available: number;

  /** `onTake` is told when a block is about to lose its contents. */
  constructor(size: number, onTake: (block: number) => void = () => {}) {
    this.size = size;
    this.#references = new Int32Array(size);
    this.#next = new Int32Array(size + CLASSES.length);
    this.#previous = new Int32Array(size + CLASSES.length);
    this.#onTake = onTake;
    this.#available = 0;
    for (let i = 0; i < CLASSES.length; i++) this.#next[size + i] = this.#previous[size + i] = size + i;
    for (let block = 0; block < size; block++) this.#append(block, 'blank');
  }

  /** Blocks nobody holds, findable ones included. */
  get available(): number {
    return this.#available;
  }

  references(block: number): number {
    return this.#references[block]!;
  }

  /** A block for new contents, held once; -1 when every block is held. */
  take(): number {
    for (let i = 0; i < CLASSES.length; i++) {
      const block = this.#next[this.size + i]!;
      if (block >= this.size) continue;
      this.#unlink(block);
      this.#onTake(block);
      this.#references[block] = 1;
      return block;
    }
    return -1;
  }

  /** One more holder of a block's contents. */
  hold(block: number): void {
    if (this.#references[block] === 0) this.#unlink(block);
    this.#references[block]! += 1;
  }

  /** One holder less; the last one's word on `warmth` counts. */
  release(block: number, warmth: Warmth): void {
    const left = this.#references[block]! - 1;
    if (left < 0) throw new Error(`block ${block} released more often than held`);
    this.#references[block] = left;
    if (left === 0) this.#append(block, warmth);
  }

  #append(block: number, warmth: Warmth): void {
    const sentinel = this.size + CLASSES.indexOf(warmth);
    const last = this.#previous[sentinel]!;
    this.#next[last] = block;
    this.#previous[block] = last;
    this.#next[block] = sentinel;
    this.#previous[sentinel] = block;
    this.#available += 1;
  }

  #unlink(block: number): void {
    const next = this.#next[block]!;
    const previous = this.#previous[block]!;
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#available -= 1;
  }
}
