// SPDX-License-Identifier: MIT
// The cache of the scripted model: physical blocks and slots with what was written into them. Reads throw when the block
// table leads to a row that does not hold what the reader expects.

import { BLOCK_TOKENS } from '../../engine/cache/layout.ts';
import type { StepPlan } from '../../engine/native.ts';

const CSA_RING = 16;
const HCA_RING = 136;
const CSA_ENTRIES = BLOCK_TOKENS / 4;

/** Values tagged with the position or entry they belong to. */
class Tagged {
  readonly #tags: Int32Array;
  readonly #values: Uint32Array;
  readonly #name: string;

  constructor(name: string, size: number) {
    this.#name = name;
    this.#tags = new Int32Array(size).fill(-1);
    this.#values = new Uint32Array(size);
  }

  write(place: number, tag: number, value: number): void {
    this.#tags[place] = tag;
    this.#values[place] = value;
  }

  read(place: number, tag: number): number {
    if (this.#tags[place] !== tag) {
      throw new Error(`${this.#name} at ${place} holds ${this.#tags[place]}, expected ${tag}`);
    }
    return this.#values[place]!;
  }
}

export class ScriptedCache {
  readonly rows: Tagged;
  readonly tokens: Tagged;
  readonly csa: Tagged;
  readonly hca: Tagged;
  readonly csaTail: Tagged;
  readonly mtpTokens: Tagged;
  readonly mtpStreams: Tagged;
  readonly csaRing: Tagged;
  readonly hcaRing: Tagged;

  constructor(sizes: { slots: number; windowBlocks: number; contextBlocks: number }) {
    const windowRows = sizes.windowBlocks * BLOCK_TOKENS;
    this.rows = new Tagged('window row', windowRows);
    this.tokens = new Tagged('token of window row', windowRows);
    this.mtpTokens = new Tagged('token of MTP row', windowRows);
    this.mtpStreams = new Tagged('streams of MTP row', windowRows);
    this.csaTail = new Tagged('csa tail', sizes.windowBlocks * 4);
    this.csa = new Tagged('csa entry', sizes.contextBlocks * CSA_ENTRIES);
    this.hca = new Tagged('hca entry', sizes.contextBlocks);
    this.csaRing = new Tagged('csa ring', sizes.slots * CSA_RING);
    this.hcaRing = new Tagged('hca ring', sizes.slots * HCA_RING);
  }
}

/** One row's view of the cache through its slot and block tables. */
export class RowView {
  readonly #cache: ScriptedCache;
  readonly #slot: number;
  readonly #windowBase: number;
  readonly #window: Int32Array;
  readonly #context: Int32Array;

  constructor(cache: ScriptedCache, plan: StepPlan, row: number) {
    this.#cache = cache;
    this.#slot = plan.slot[row]!;
    this.#windowBase = plan.windowBase[row]!;
    this.#window = plan.windowBlocks.subarray(plan.windowOffset[row], plan.windowOffset[row + 1]);
    this.#context = plan.contextBlocks.subarray(plan.contextOffset[row], plan.contextOffset[row + 1]);
  }

  windowRow(position: number): number {
    const block = this.#window[Math.floor(position / BLOCK_TOKENS) - this.#windowBase];
    if (block === undefined) throw new Error(`position ${position} is not in the window blocks of slot ${this.#slot}`);
    return block * BLOCK_TOKENS + (position % BLOCK_TOKENS);
  }

  csaPlace(entry: number): number {
    return this.#contextBlock(Math.floor(entry / CSA_ENTRIES)) * CSA_ENTRIES + (entry % CSA_ENTRIES);
  }

  hcaPlace(entry: number): number {
    return this.#contextBlock(entry);
  }

  readRow(position: number): number {
    return this.#cache.rows.read(this.windowRow(position), position);
  }

  writeRow(position: number, token: number, value: number): void {
    const place = this.windowRow(position);
    this.#cache.rows.write(place, position, value);
    this.#cache.tokens.write(place, position, token);
    const inBlock = position % BLOCK_TOKENS;
    const block = (place - inBlock) / BLOCK_TOKENS;
    if (inBlock >= BLOCK_TOKENS - 4) this.#cache.csaTail.write(block * 4 + inBlock - (BLOCK_TOKENS - 4), position, value);
    this.#cache.csaRing.write(this.#slot * CSA_RING + (position % CSA_RING), position, value);
    this.#cache.hcaRing.write(this.#slot * HCA_RING + (position % HCA_RING), position, value);
  }

  readCsaRing(position: number): number {
    return this.#cache.csaRing.read(this.#slot * CSA_RING + (position % CSA_RING), position);
  }

  readHcaRing(position: number): number {
    return this.#cache.hcaRing.read(this.#slot * HCA_RING + (position % HCA_RING), position);
  }

  /** Brings the csa ring back from the tail of the window block before `position`; the hca ring starts empty there. */
  resume(position: number): void {
    const block = Math.floor(this.windowRow(position - 1) / BLOCK_TOKENS);
    for (let i = 0; i < 4; i++) {
      const p = position - 4 + i;
      this.#cache.csaRing.write(this.#slot * CSA_RING + (p % CSA_RING), p, this.#cache.csaTail.read(block * 4 + i, p));
    }
  }

  writeMtp(position: number, token: number, streams: number): void {
    const place = this.windowRow(position);
    this.#cache.mtpTokens.write(place, position, token);
    this.#cache.mtpStreams.write(place, position, streams);
  }

  /** The MTP row of a position must hold its token and the streams of the position before. */
  checkMtp(position: number, token: number): void {
    const place = this.windowRow(position);
    const found = this.#cache.mtpTokens.read(place, position);
    if (found !== token >>> 0) throw new Error(`MTP row ${position} holds token ${found}, expected ${token}`);
    if (this.#cache.mtpStreams.read(place, position) !== this.readRow(position - 1)) {
      throw new Error(`MTP row ${position} holds other streams than those of position ${position - 1}`);
    }
  }

  tokenAt(position: number): number {
    return this.#cache.tokens.read(this.windowRow(position), position);
  }

  #contextBlock(block: number): number {
    const physical = this.#context[block];
    if (physical === undefined) throw new Error(`context block ${block} is not in the table of slot ${this.#slot}`);
    return physical;
  }
}
