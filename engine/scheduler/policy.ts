// SPDX-License-Identifier: MIT
// Which prompts get the prefill tokens of a step, and how many.

import type { Sequence } from './sequence.ts';
import { byRank } from './sequence.ts';

/** Prefill rows that native attention takes together; with more it begins again, so a step has more only to be full. */
export const PREFILL_CHUNK = 4;

/** Prefill tokens a step may always have while decodes run, however slow steps are. */
export const MIN_PREFILL_TOKENS = 32;

/** The first prompt in line gets at least one part in this many of every step's prefill tokens. */
export const FIRST_IN_LINE_SHARE = 4;

export interface PrefillGrant {
  sequence: Sequence;
  tokens: number;
}

/**
 * Splits `budget` prefill tokens among `candidates`. Short work goes first, so that a short prompt does not wait for a long
 * one; the first in line (priority, then arrival) always gets its share, so that a long prompt cannot be starved:
 *
 *   Bound: with at least B prefill tokens in every step, the first prompt in line, R tokens from done, is done within
 *   ceil(R / max(1, floor(B / FIRST_IN_LINE_SHARE))) steps, whatever arrives.
 *
 * At most PREFILL_CHUNK rows are used, more only while they leave over half of the budget unused.
 */
export function grantPrefill(candidates: readonly Sequence[], budget: number): PrefillGrant[] {
  if (candidates.length === 0 || budget <= 0) return [];
  const first = candidates.reduce((best, other) => (byRank(other, best) < 0 ? other : best));
  const others = candidates.filter((sequence) => sequence !== first);
  others.sort((a, b) => a.remaining - b.remaining || byRank(a, b));
  const share = Math.min(first.remaining, Math.max(1, Math.floor(budget / FIRST_IN_LINE_SHARE)));
  const grants: PrefillGrant[] = [{ sequence: first, tokens: share }];
  let left = budget - share;
  for (const sequence of others) {
    if (left === 0) break;
    if (grants.length >= PREFILL_CHUNK && left * 2 < budget) break;
    // The first in line takes its place in the order of shortness, too.
    if (first.remaining <= sequence.remaining) left -= grow(grants[0]!, left);
    const tokens = Math.min(sequence.remaining, left);
    if (tokens > 0) grants.push({ sequence, tokens });
    left -= tokens;
  }
  grow(grants[0]!, left);
  return grants;
}

/** Grants up to `tokens` more; returns how many were taken. */
function grow(grant: PrefillGrant, tokens: number): number {
  const taken = Math.min(tokens, grant.sequence.remaining - grant.tokens);
  grant.tokens += taken;
  return taken;
}
