// SPDX-License-Identifier: MIT
// From bytes to blocks: what a memory budget holds.

import { EngineError } from '../errors.ts';

/** Tokens covered by a block of either kind. */
export const BLOCK_TOKENS = 128;

/** Sliding window of every layer, the current token included. */
export const WINDOW_TOKENS = 128;

/**
 * Window blocks of a running sequence: the window's tail, the current one, and a share of a third, which it holds only
 * while its drafts reach across a border.
 */
const LIVE_WINDOW_BLOCKS = 2.25;

/** Cached restart points: one window block for this many context blocks (1,024 tokens). See KvCache, `isAnchor`. */
export const CONTEXT_BLOCKS_PER_ANCHOR = 8;

export interface BlockBytes {
  windowBlockBytes: number;
  contextBlockBytes: number;
  slotBytes: number;
}

export interface CacheDemand {
  bytes: BlockBytes;
  budgetBytes: number;
  slots: number;
  stepTokens: number;
  mtp: number;
  /** Longest sequence asked for; the plan may allow less. */
  maxModelLen: number;
}

export interface CachePlan {
  slots: number;
  windowBlocks: number;
  contextBlocks: number;
  /** Longest sequence that fits when it runs alone. */
  maxModelLen: number;
  totalBytes: number;
}

/**
 * Splits `budgetBytes`: first the slots and the window blocks that running sequences and one full prefill chunk need, then
 * context for one longest sequence (shortened to what fits), then the rest for more context, with one cached window block
 * for every CONTEXT_BLOCKS_PER_ANCHOR context blocks, so that cached prefixes can be restarted.
 * @throws EngineError OUT_OF_MEMORY when not even a short sequence fits.
 */
export function planCache(demand: CacheDemand): CachePlan {
  const { bytes, budgetBytes, slots, mtp } = demand;
  const { liveWindows, fixedBytes, unitBytes } = cacheParts(demand);
  const left = budgetBytes - fixedBytes;
  const wholeSequence = blocksFor(demand.maxModelLen + mtp);
  const fitting = Math.floor(left / unitBytes) * CONTEXT_BLOCKS_PER_ANCHOR;
  if (fitting < 1) {
    throw new EngineError(
      'OUT_OF_MEMORY',
      `the cache needs ${mebibytes(fixedBytes + unitBytes)} for ${slots} sequences, ${mebibytes(budgetBytes)} are given; ` +
        'lower --max-sequences or --step-tokens, or give it more with --kv-memory',
    );
  }
  const contextBlocks = fitting;
  const windowBlocks = liveWindows + Math.floor(fitting / CONTEXT_BLOCKS_PER_ANCHOR);
  return {
    slots,
    windowBlocks,
    contextBlocks,
    maxModelLen: contextBlocks >= wholeSequence ? demand.maxModelLen : contextBlocks * BLOCK_TOKENS - mtp,
    totalBytes: slots * bytes.slotBytes + windowBlocks * bytes.windowBlockBytes + contextBlocks * bytes.contextBlockBytes,
  };
}

/**
 * Bytes for every slot at work, one longest sequence (up to ROOMY_TOKENS of it) and ROOMY_TOKENS_PER_SLOT of context for
 * each slot: a budget for devices whose memory is not the engine's alone.
 */
export function roomyBytes(demand: Omit<CacheDemand, 'budgetBytes'>): number {
  const { fixedBytes, unitBytes } = cacheParts(demand);
  const tokens = Math.max(Math.min(demand.maxModelLen + demand.mtp, ROOMY_TOKENS), demand.slots * ROOMY_TOKENS_PER_SLOT);
  return fixedBytes + Math.ceil(tokens / (CONTEXT_BLOCKS_PER_ANCHOR * BLOCK_TOKENS)) * unitBytes;
}

const ROOMY_TOKENS = 32_768;
const ROOMY_TOKENS_PER_SLOT = 1024;

/** What the plan is made of: fixed parts, and the unit of context with its share of cached window blocks. */
function cacheParts({ bytes, slots, stepTokens, mtp }: Omit<CacheDemand, 'budgetBytes'>): {
  liveWindows: number;
  fixedBytes: number;
  unitBytes: number;
} {
  const liveWindows = Math.ceil(slots * LIVE_WINDOW_BLOCKS) + Math.ceil((stepTokens + mtp) / BLOCK_TOKENS) + 1;
  return {
    liveWindows,
    fixedBytes: slots * bytes.slotBytes + liveWindows * bytes.windowBlockBytes,
    unitBytes: CONTEXT_BLOCKS_PER_ANCHOR * bytes.contextBlockBytes + bytes.windowBlockBytes,
  };
}

export function blocksFor(tokens: number): number {
  return Math.ceil(tokens / BLOCK_TOKENS);
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}
