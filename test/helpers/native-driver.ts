// SPDX-License-Identifier: MIT
// Drives NativeModel.step without a scheduler: sequences with trivially allocated blocks, plans built row by row.

import { ROW_ALL_LOGITS, ROW_ALL_LOGPROBS, ROW_RESUME, ROW_SAMPLE } from '../../engine/native.ts';
import type { NativeModel, StepPlan, StepResult } from '../../engine/native.ts';

const BLOCK = 128;
const blockOf = (position: number): number => Math.floor(position / BLOCK);
const firstWindowBlock = (position: number): number => blockOf(Math.max(0, position - 127));

export interface RowSampling {
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  seed?: bigint;
  logprobs?: number;
  penalties?: { token: number; count: number }[];
  bias?: { token: number; value: number }[];
  /** One list of allowed ids for each of the 1 + drafts positions. */
  allowed?: number[][];
}

export interface Row {
  sequence: DrivenSequence;
  /** Tokens of the sequence to compute, before the drafts. */
  count: number;
  /** Draft tokens to verify behind them. */
  drafts?: number[];
  /** Sample behind the row; {} is greedy. */
  sample?: RowSampling;
  allLogits?: boolean;
  allLogprobs?: boolean;
}

/** Tokens known so far and the cache of those computed. */
export class DrivenSequence {
  readonly slot: number;
  readonly tokens: number[];
  computed = 0;
  resume = false;
  /** Physical window blocks by logical number. */
  readonly window = new Map<number, number>();
  readonly context: number[] = [];

  constructor(slot: number, tokens: Iterable<number>) {
    this.slot = slot;
    this.tokens = [...tokens];
  }
}

export interface DriverSizes {
  slots: number;
  windowBlocks: number;
  contextBlocks: number;
}

export class NativeDriver {
  readonly model: NativeModel;
  readonly #sizes: DriverSizes;
  #resets = 0;
  #slots: number[] = [];
  #window: number[] = [];
  #context: number[] = [];

  private constructor(model: NativeModel, sizes: DriverSizes) {
    this.model = model;
    this.#sizes = sizes;
    this.reset();
  }

  static async create(model: NativeModel, sizes: DriverSizes): Promise<NativeDriver> {
    await model.allocateCache(sizes);
    return new NativeDriver(model, sizes);
  }

  /** Forgets all sequences. Blocks and slots come back in another order, full of stale rows. */
  reset(): void {
    this.#resets += 1;
    const rotated = (count: number): number[] => Array.from({ length: count }, (_, id) => (id + 5 * this.#resets) % count);
    this.#slots = rotated(this.#sizes.slots);
    this.#context = rotated(this.#sizes.contextBlocks);
    this.#window = rotated(this.#sizes.windowBlocks);
  }

  start(tokens: Iterable<number>): DrivenSequence {
    return new DrivenSequence(take(this.#slots, 'slot'), tokens);
  }

  /** A sequence that shares the first `blocks` blocks of `parent`, as a prefix-cache hit does, and goes on with `tokens`. */
  fork(parent: DrivenSequence, blocks: number, tokens: Iterable<number>): DrivenSequence {
    const child = this.start(tokens);
    child.computed = blocks * BLOCK;
    child.resume = true;
    child.context.push(...parent.context.slice(0, blocks));
    const last = parent.window.get(blocks - 1);
    if (last === undefined) throw new Error(`window block ${blocks - 1} of the parent is gone`);
    child.window.set(blocks - 1, last);
    return child;
  }

  /** Gives the slot back; blocks are leaked until reset(), as other sequences may share them. */
  end(sequence: DrivenSequence): void {
    this.#slots.push(sequence.slot);
  }

  /** Builds and runs one step, then advances the sequences: accepted tokens are appended, rejected drafts forgotten. */
  async step(rows: Row[]): Promise<StepResult> {
    const result = await this.model.step(this.plan(rows));
    let sample = 0;
    for (const row of rows) {
      const { sequence } = row;
      sequence.resume = false;
      sequence.computed += row.count;
      if (row.sample === undefined) continue;
      const width = 1 + this.model.mtp;
      const accepted = result.acceptedCount[sample]!;
      sequence.tokens.push(...result.accepted.subarray(sample * width, sample * width + accepted));
      sequence.computed += accepted - 1;
      sample += 1;
    }
    return result;
  }

  plan(rows: Row[]): StepPlan {
    const columns = new PlanColumns(this.model.vocabSize);
    for (const row of rows) {
      this.#allocate(row);
      columns.add(row, this.model.mtp);
    }
    return columns.build();
  }

  #allocate({ sequence, count, drafts = [] }: Row): void {
    const last = sequence.computed + count + drafts.length - 1;
    for (let block = firstWindowBlock(sequence.computed); block <= blockOf(last + this.model.mtp); block += 1) {
      if (!sequence.window.has(block)) sequence.window.set(block, take(this.#window, 'window block'));
    }
    while (sequence.context.length <= blockOf(last)) sequence.context.push(take(this.#context, 'context block'));
  }
}

function take(pool: number[], what: string): number {
  const id = pool.pop();
  if (id === undefined) throw new Error(`the driver has no ${what} left`);
  return id;
}

class PlanColumns {
  readonly #vocabSize: number;
  readonly #rows: { row: Row; flags: number; next: number; base: number }[] = [];
  readonly #tokens: number[] = [];
  readonly #window: number[] = [];
  readonly #context: number[] = [];
  readonly #windowOffset = [0];
  readonly #contextOffset = [0];

  constructor(vocabSize: number) {
    this.#vocabSize = vocabSize;
  }

  add(row: Row, mtp: number): void {
    const { sequence, count, drafts = [] } = row;
    const end = sequence.computed + count;
    const last = end + drafts.length - 1;
    const base = firstWindowBlock(sequence.computed);
    const flags =
      (row.sample ? ROW_SAMPLE : 0) |
      (sequence.resume ? ROW_RESUME : 0) |
      (row.allLogprobs === true ? ROW_ALL_LOGPROBS : 0) |
      (row.allLogits === true ? ROW_ALL_LOGITS : 0);
    this.#rows.push({ row, flags, base, next: row.sample ? -1 : (sequence.tokens[end] ?? -1) });
    this.#tokens.push(...sequence.tokens.slice(sequence.computed, end), ...drafts);
    for (let block = base; block <= blockOf(last + mtp); block += 1) this.#window.push(sequence.window.get(block)!);
    this.#context.push(...sequence.context.slice(0, blockOf(last) + 1));
    this.#windowOffset.push(this.#window.length);
    this.#contextOffset.push(this.#context.length);
  }

  build(): StepPlan {
    const rows = this.#rows;
    const ints = (value: (entry: (typeof rows)[number]) => number): Int32Array => Int32Array.from(rows, value);
    return {
      slot: ints(({ row }) => row.sequence.slot),
      position: ints(({ row }) => row.sequence.computed),
      count: ints(({ row }) => row.count + (row.drafts?.length ?? 0)),
      drafts: ints(({ row }) => row.drafts?.length ?? 0),
      nextToken: ints(({ next }) => next),
      flags: Uint8Array.from(rows, ({ flags }) => flags),
      windowBase: ints(({ base }) => base),
      windowOffset: Int32Array.from(this.#windowOffset),
      windowBlocks: Int32Array.from(this.#window),
      contextOffset: Int32Array.from(this.#contextOffset),
      contextBlocks: Int32Array.from(this.#context),
      tokens: Int32Array.from(this.#tokens),
      ...this.#sampling(),
    };
  }

  #sampling(): Omit<StepPlan, keyof RowColumns> {
    const samples = this.#rows.flatMap(({ row }) => (row.sample ? [row.sample] : []));
    const floats = (value: (sample: RowSampling) => number): Float32Array => Float32Array.from(samples, value);
    const ints = (value: (sample: RowSampling) => number): Int32Array => Int32Array.from(samples, value);
    const penalties = samples.map((sample) => sample.penalties ?? []);
    const bias = samples.map((sample) => sample.bias ?? []);
    const words = Math.ceil(this.#vocabSize / 32);
    const masks = samples.flatMap((sample) => sample.allowed ?? []);
    let maskRows = 0;
    return {
      temperature: floats(({ temperature = 0 }) => temperature),
      topP: floats(({ topP = 1 }) => topP),
      topK: ints(({ topK = 0 }) => topK),
      minP: floats(({ minP = 0 }) => minP),
      repetitionPenalty: floats(({ repetitionPenalty = 1 }) => repetitionPenalty),
      presencePenalty: floats(({ presencePenalty = 0 }) => presencePenalty),
      frequencyPenalty: floats(({ frequencyPenalty = 0 }) => frequencyPenalty),
      seed: BigUint64Array.from(samples, ({ seed = 0n }) => seed),
      logprobs: ints(({ logprobs = -1 }) => logprobs),
      penaltyOffset: offsets(penalties),
      penaltyTokens: Int32Array.from(penalties.flat(), ({ token }) => token),
      penaltyCounts: Int32Array.from(penalties.flat(), ({ count }) => count),
      biasOffset: offsets(bias),
      biasTokens: Int32Array.from(bias.flat(), ({ token }) => token),
      biasValues: Float32Array.from(bias.flat(), ({ value }) => value),
      maskRow: ints(({ allowed }) => (allowed ? (maskRows += allowed.length) - allowed.length : -1)),
      masks: maskWords(masks, words),
    };
  }
}

type RowColumns = Pick<
  StepPlan,
  | 'slot'
  | 'position'
  | 'count'
  | 'drafts'
  | 'nextToken'
  | 'flags'
  | 'windowBase'
  | 'windowOffset'
  | 'windowBlocks'
  | 'contextOffset'
  | 'contextBlocks'
  | 'tokens'
>;

function offsets(lists: unknown[][]): Int32Array {
  const result = new Int32Array(lists.length + 1);
  lists.forEach((list, i) => (result[i + 1] = result[i]! + list.length));
  return result;
}

function maskWords(masks: number[][], words: number): Uint32Array {
  const result = new Uint32Array(masks.length * words);
  masks.forEach((allowed, m) => {
    for (const token of allowed) {
      const word = m * words + (token >> 5);
      result[word] = (result[word]! | (1 << (token & 31))) >>> 0;
    }
  });
  return result;
}
