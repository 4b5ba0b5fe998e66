// SPDX-License-Identifier: MIT
// What native/runtime/validate.cc demands of a plan, for the scripted model.

import { BLOCK_TOKENS, WINDOW_TOKENS } from '../../engine/cache/layout.ts';
import { ROW_RESUME, ROW_SAMPLE } from '../../engine/native.ts';
import type { StepPlan } from '../../engine/native.ts';

export interface PlanBounds {
  vocabSize: number;
  mtp: number;
  stepTokens: number;
  slots: number;
  windowBlocks: number;
  contextBlocks: number;
  contextTokens: number;
}

/** @throws Error naming the first fault. */
export function checkPlan(plan: StepPlan, bounds: PlanBounds): void {
  const rows = plan.slot.length;
  demand(rows > 0 && rows <= bounds.slots, `${rows} rows`);
  for (const name of ['position', 'count', 'drafts', 'nextToken', 'flags', 'windowBase'] as const) {
    demand(plan[name].length === rows, `${name} has ${plan[name].length} entries for ${rows} rows`);
  }
  demand(new Set(plan.slot).size === rows, 'a slot is used twice');
  const tokens = plan.count.reduce((sum, count) => sum + count, 0);
  demand(plan.tokens.length === tokens && tokens <= bounds.stepTokens, `${tokens} tokens`);
  demand(
    plan.tokens.every((token) => token >= 0 && token < bounds.vocabSize),
    'a token is out of range',
  );
  checkSampling(plan, bounds);
  const window = new BlockUse('window', bounds.windowBlocks);
  const context = new BlockUse('context', bounds.contextBlocks);
  let prefill = false;
  for (let row = 0; row < rows; row++) {
    const [position, count, drafts] = [plan.position[row]!, plan.count[row]!, plan.drafts[row]!];
    const samples = (plan.flags[row]! & ROW_SAMPLE) !== 0;
    if (count - drafts > 1 || !samples) prefill = true;
    demand(!(prefill && drafts > 0), 'a decode row stands behind a prefill row');
    demand(drafts === 0 || samples, 'drafts without sampling');
    demand(drafts <= bounds.mtp && drafts < count, `${drafts} drafts of ${count} tokens`);
    demand(!samples || plan.nextToken[row] === -1, 'a sampling row with a next token');
    demand(position + count <= bounds.contextTokens, `position ${position + count - 1} is past the context`);
    const resumes = (plan.flags[row]! & ROW_RESUME) !== 0;
    demand(!resumes || (position > 0 && position % BLOCK_TOKENS === 0), `resume at ${position}`);
    const last = position + count - 1;
    const base = blockOf(Math.max(0, position - WINDOW_TOKENS + 1));
    demand(plan.windowBase[row] === base, `window base ${plan.windowBase[row]}, expected ${base}`);
    const windowTable = plan.windowBlocks.subarray(plan.windowOffset[row], plan.windowOffset[row + 1]);
    window.use(windowTable, { row, firstBlock: base, lastBlock: blockOf(last + bounds.mtp), firstWritten: blockOf(position) });
    const contextTable = plan.contextBlocks.subarray(plan.contextOffset[row], plan.contextOffset[row + 1]);
    context.use(contextTable, { row, firstBlock: 0, lastBlock: blockOf(last), firstWritten: blockOf(position) });
  }
}

function checkSampling(plan: StepPlan, bounds: PlanBounds): void {
  const samples = plan.flags.filter((flags) => (flags & ROW_SAMPLE) !== 0).length;
  for (const name of ['temperature', 'topP', 'topK', 'minP', 'seed', 'logprobs', 'maskRow'] as const) {
    demand(plan[name].length === samples, `${name} has ${plan[name].length} entries for ${samples} sampling rows`);
  }
  demand(plan.penaltyOffset.length === samples + 1 && plan.biasOffset.length === samples + 1, 'offsets of sampling rows');
  demand(plan.penaltyOffset.at(-1) === plan.penaltyTokens.length, 'penalty offsets');
  demand(plan.penaltyCounts.length === plan.penaltyTokens.length, 'penalty counts');
  demand(plan.biasOffset.at(-1) === plan.biasTokens.length, 'bias offsets');
  demand(plan.masks.length % Math.ceil(bounds.vocabSize / 32) === 0, 'mask words');
}

/** Blocks of one kind in a step: a block that one row writes is in no other row's table. */
class BlockUse {
  readonly #name: string;
  readonly #blocks: number;
  readonly #users = new Map<number, { row: number; written: boolean }>();

  constructor(name: string, blocks: number) {
    this.#name = name;
    this.#blocks = blocks;
  }

  use(table: Int32Array, at: { row: number; firstBlock: number; lastBlock: number; firstWritten: number }): void {
    const needed = at.lastBlock - at.firstBlock + 1;
    demand(table.length === needed, `row ${at.row}: ${table.length} ${this.#name} blocks, needs ${needed}`);
    table.forEach((block, i) => {
      demand(block >= 0 && block < this.#blocks, `${this.#name} block ${block} does not exist`);
      const written = at.firstBlock + i >= at.firstWritten;
      const other = this.#users.get(block);
      demand(
        other === undefined || (other.row !== at.row && !written && !other.written),
        `${this.#name} block ${block} is written by row ${at.row} or ${other?.row} and used by both`,
      );
      this.#users.set(block, { row: at.row, written });
    });
  }
}

function blockOf(position: number): number {
  return Math.floor(position / BLOCK_TOKENS);
}

function demand(condition: boolean, message: string): asserts condition {
  if (!condition) throw Object.assign(new Error(`invalid plan: ${message}`), { code: 'INVALID_PLAN' });
}
