// SPDX-License-Identifier: MIT

import type { StepResult } from '../native.ts';
import type { Sequence } from './sequence.ts';
import type { StepRow } from './step-plan.ts';

export interface StepOutcome {
  sequence: Sequence;
  /** Tokens sampled in this step and kept, in order. */
  tokens: number[];
  /** The forced tokens of the request were put behind them. */
  forced: boolean;
  /** Tokens the model accepted, the ones behind a stop included. */
  accepted: number;
  /** Drafts that were verified. */
  drafts: number;
  /** Index of the row in the result's sampling arrays; -1 when it did not sample. */
  sample: number;
  /** Index of the row's first token in the result's prompt log-probabilities; -1 without. */
  promptToken: number;
  /** Position and count of the computed tokens. */
  position: number;
  count: number;
  finish?: { reason: 'stop' | 'length'; stop?: number };
}

/** Where a row's values are in the arrays of the result. */
export interface ResultPlace {
  sample: number;
  promptToken: number;
  maxModelLen: number;
}

/** Advances a row's sequence by the result: sampled tokens up to the first stop, next drafts, what is computed. */
export function commitRow(row: StepRow, result: StepResult, place: ResultPlace): StepOutcome {
  const { sequence, position, count, drafts } = row;
  const outcome: StepOutcome = {
    sequence,
    tokens: [],
    forced: false,
    accepted: 0,
    drafts,
    sample: row.sample ? place.sample : -1,
    promptToken: row.promptLogprobs ? place.promptToken : -1,
    position,
    count,
  };
  sequence.resume = false;
  if (row.promptLogprobs) sequence.promptLogprobsDone = Math.max(sequence.promptLogprobsDone, position + count);
  if (!row.sample) {
    sequence.computed = position + count;
    if (sequence.computed === sequence.tokens.length) outcome.finish = { reason: 'length' };
    return outcome;
  }
  takeSampled(sequence, result, place, outcome);
  const kept = outcome.tokens.length;
  if (outcome.forced) {
    // The last sampled token is computed again: drafts behind it have left their traces in the MTP rows.
    sequence.computed = position + count - drafts + kept - 1;
    sequence.phase = 'prefilling';
  } else {
    // Accepted drafts were computed in this step, the last accepted token was not.
    sequence.computed = position + count - drafts + Math.min(kept, outcome.accepted - 1);
    sequence.phase = 'decoding';
    sequence.drafts = draftsOf(result, place.sample);
  }
  return outcome;
}

/** Appends accepted tokens up to the first stop or the place where forced tokens come in. */
function takeSampled(sequence: Sequence, result: StepResult, place: ResultPlace, outcome: StepOutcome): void {
  const { forced } = sequence.request;
  const width = result.accepted.length / result.acceptedCount.length;
  outcome.accepted = result.acceptedCount[place.sample]!;
  for (let i = 0; i < outcome.accepted; i++) {
    const token = result.accepted[place.sample * width + i]!;
    sequence.push(token);
    outcome.tokens.push(token);
    const finish = finishOf(sequence, token, place.maxModelLen);
    if (finish !== undefined) {
      outcome.finish = finish;
      return;
    }
    if (token !== forced?.after || sequence.forcedDone) continue;
    outcome.forced = sequence.forcedDone = true;
    for (const next of forced.tokens) sequence.push(next);
    // No room for one more sampled token behind them.
    const end = finishOf(sequence, -1, place.maxModelLen);
    if (end !== undefined) outcome.finish = end;
    return;
  }
}

function finishOf(sequence: Sequence, token: number, maxModelLen: number): StepOutcome['finish'] {
  const { stopTokens, minTokens, maxTokens } = sequence.request;
  if (stopTokens.has(token) && sequence.generated > minTokens) return { reason: 'stop', stop: token };
  if (sequence.generated >= maxTokens || sequence.tokens.length >= maxModelLen) return { reason: 'length' };
  return undefined;
}

function draftsOf(result: StepResult, sample: number): number[] {
  const width = result.drafts.length / result.acceptedCount.length;
  const drafts: number[] = [];
  for (let i = 0; i < width; i++) {
    const token = result.drafts[sample * width + i]!;
    if (token < 0) break;
    drafts.push(token);
  }
  return drafts;
}
