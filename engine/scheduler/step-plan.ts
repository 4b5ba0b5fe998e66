// SPDX-License-Identifier: MIT

import { ROW_ALL_LOGPROBS, ROW_RESUME, ROW_SAMPLE } from '../native.ts';
import type { StepPlan } from '../native.ts';
import type { Sequence } from './sequence.ts';

/** A sequence's part in a step. */
export interface StepRow {
  sequence: Sequence;
  position: number;
  /** Tokens computed, drafts included. */
  count: number;
  drafts: number;
  sample: boolean;
  /** Log-probabilities of the prompt are collected from this row. */
  promptLogprobs: boolean;
}

/** Masks of a sampling row that a grammar has to fill: 1 + drafts rows from `maskRow` on. */
export interface GrammarRow {
  matcher: number;
  /** Tokens the matcher does not know yet. */
  accepted: number[];
  drafts: number[];
  maskRow: number;
}

type TypedArray = Int32Array | Uint32Array | Uint8Array | Float32Array | BigUint64Array;

/** A typed array that grows and is used again in every step. */
class Column<A extends TypedArray> {
  #values: A;
  #length = 0;
  readonly #make: (length: number) => A;

  constructor(make: (length: number) => A) {
    this.#make = make;
    this.#values = make(64);
  }

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  push(value: A[number]): void {
    this.#reserve(1);
    this.#values[this.#length++] = value;
  }

  append(values: ArrayLike<A[number]> & Iterable<A[number]>): void {
    this.#reserve(values.length);
    (this.#values as Int32Array).set(values as ArrayLike<number>, this.#length);
    this.#length += values.length;
  }

  view(): A {
    return this.#values.subarray(0, this.#length) as A;
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#values.length) return;
    const grown = this.#make(Math.max(this.#values.length * 2, this.#length + more));
    (grown as Int32Array).set(this.view() as Int32Array);
    this.#values = grown;
  }
}

const ints = (): Column<Int32Array> => new Column((length) => new Int32Array(length));
const floats = (): Column<Float32Array> => new Column((length) => new Float32Array(length));

/** Writes rows into the arrays of a StepPlan; the arrays are views that stay valid until the next `begin`. */
export class StepPlanBuilder {
  readonly #columns = {
    slot: ints(),
    position: ints(),
    count: ints(),
    drafts: ints(),
    nextToken: ints(),
    flags: new Column((length) => new Uint8Array(length)),
    windowBase: ints(),
    windowOffset: ints(),
    windowBlocks: ints(),
    contextOffset: ints(),
    contextBlocks: ints(),
    tokens: ints(),
    temperature: floats(),
    topP: floats(),
    topK: ints(),
    minP: floats(),
    repetitionPenalty: floats(),
    presencePenalty: floats(),
    frequencyPenalty: floats(),
    seed: new Column((length) => new BigUint64Array(length)),
    logprobs: ints(),
    penaltyOffset: ints(),
    penaltyTokens: ints(),
    penaltyCounts: ints(),
    biasOffset: ints(),
    biasTokens: ints(),
    biasValues: floats(),
    maskRow: ints(),
    masks: new Column((length) => new Uint32Array(length)),
  } satisfies { [K in keyof StepPlan]: Column<StepPlan[K]> };
  readonly #mtp: number;
  readonly #openMask: Uint32Array;
  #maskRows = 0;
  #grammarRows: GrammarRow[] = [];

  constructor(mtp: number, vocabSize: number) {
    this.#mtp = mtp;
    this.#openMask = new Uint32Array(Math.ceil(vocabSize / 32)).fill(0xffffffff);
  }

  /** Rows of the plan whose masks a grammar has to fill; until then they allow everything. */
  get grammarRows(): readonly GrammarRow[] {
    return this.#grammarRows;
  }

  begin(): void {
    for (const column of Object.values(this.#columns)) column.clear();
    this.#maskRows = 0;
    this.#grammarRows = [];
    const { windowOffset, contextOffset, penaltyOffset, biasOffset } = this.#columns;
    for (const offsets of [windowOffset, contextOffset, penaltyOffset, biasOffset]) offsets.push(0);
  }

  addRow(row: StepRow): void {
    const { sequence, position, count, drafts } = row;
    const columns = this.#columns;
    const end = position + count - drafts;
    columns.slot.push(sequence.slot);
    columns.position.push(position);
    columns.count.push(count);
    columns.drafts.push(drafts);
    columns.nextToken.push(end < sequence.tokens.length ? sequence.tokens.at(end) : -1);
    columns.flags.push(
      (row.sample ? ROW_SAMPLE : 0) | (sequence.resume ? ROW_RESUME : 0) | (row.promptLogprobs ? ROW_ALL_LOGPROBS : 0),
    );
    columns.tokens.append(sequence.tokens.slice(position, end));
    for (let i = 0; i < drafts; i++) columns.tokens.push(sequence.drafts[i]!);
    this.#addBlocks(row);
    if (row.sample) this.#addSampling(row);
  }

  finish(): StepPlan {
    const plan: Partial<Record<keyof StepPlan, TypedArray>> = {};
    for (const [name, column] of Object.entries(this.#columns)) plan[name as keyof StepPlan] = column.view();
    return plan as unknown as StepPlan;
  }

  /** Only the blocks the row touches, though the sequence may hold more. */
  #addBlocks({ sequence, position, count }: StepRow): void {
    const { windowBase, windowBlocks, windowOffset, contextBlocks, contextOffset } = this.#columns;
    const { blocks } = sequence;
    windowBase.push(blocks.windowBase);
    const windowEnd = ((position + count - 1 + this.#mtp) >> 7) + 1;
    for (let i = 0; i < windowEnd - blocks.windowBase; i++) windowBlocks.push(blocks.window[i]!);
    windowOffset.push(windowBlocks.length);
    const contextEnd = ((position + count - 1) >> 7) + 1;
    for (let i = 0; i < contextEnd; i++) contextBlocks.push(blocks.context[i]!);
    contextOffset.push(contextBlocks.length);
  }

  #addSampling({ sequence, drafts, promptLogprobs }: StepRow): void {
    const columns = this.#columns;
    const { sampling, logprobs, minTokens, stopTokens } = sequence.request;
    // The width of the sampling row is that of its prompt's log-probabilities, too.
    const width = promptLogprobs ? Math.max(logprobs, sequence.request.promptLogprobs) : logprobs;
    columns.temperature.push(sampling.temperature);
    columns.topP.push(sampling.topP);
    columns.topK.push(sampling.topK);
    columns.minP.push(sampling.minP);
    columns.repetitionPenalty.push(sampling.repetitionPenalty);
    columns.presencePenalty.push(sampling.presencePenalty);
    columns.frequencyPenalty.push(sampling.frequencyPenalty);
    columns.seed.push(sampling.seed);
    columns.logprobs.push(width);
    if (sequence.penalties !== undefined) {
      columns.penaltyTokens.append(sequence.penalties.tokens);
      columns.penaltyCounts.append(sequence.penalties.counts);
    }
    columns.penaltyOffset.push(columns.penaltyTokens.length);
    const stopsBanned = sequence.generated < minTokens;
    sampling.bias.tokens.forEach((token, i) => {
      if (stopsBanned && stopTokens.has(token)) return;
      columns.biasTokens.push(token);
      columns.biasValues.push(sampling.bias.values[i]!);
    });
    if (stopsBanned) {
      for (const token of stopTokens) {
        columns.biasTokens.push(token);
        columns.biasValues.push(-Infinity);
      }
    }
    columns.biasOffset.push(columns.biasTokens.length);
    this.#addMasks(sequence, drafts);
  }

  #addMasks(sequence: Sequence, drafts: number): void {
    const { maskRow, masks } = this.#columns;
    const { matcher, sampling } = sequence.request;
    const mask = matcher === undefined ? sampling.mask : this.#openMask;
    maskRow.push(mask === undefined ? -1 : this.#maskRows);
    if (mask === undefined) return;
    if (matcher !== undefined) {
      const accepted = [...sequence.tokens.slice(sequence.matched, sequence.tokens.length)];
      this.#grammarRows.push({ matcher, accepted, drafts: sequence.drafts.slice(0, drafts), maskRow: this.#maskRows });
      sequence.matched = sequence.tokens.length;
    }
    for (let i = 0; i <= drafts; i++) masks.append(mask);
    this.#maskRows += drafts + 1;
  }
}
