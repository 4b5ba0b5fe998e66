// SPDX-License-Identifier: MIT
// From options to what native is asked to load and how the cache is divided.

import { totalmem } from 'node:os';
import { planCache, roomyBytes } from './cache/layout.ts';
import type { CacheDemand, CachePlan } from './cache/layout.ts';
import { EngineError } from './errors.ts';
import type { CheckpointInfo, NativeLoadOptions, NativeModel } from './native.ts';
import { MIN_PREFILL_TOKENS } from './scheduler/policy.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import type { EngineOptions } from './types.ts';

const DEFAULT_MTP = 2;

/** Most of the free memory of the machine that the cache of the CPU backend takes by itself. */
const CPU_CACHE_SHARE = 0.5;

/** Share of free device memory the cache takes; the rest is for allocations of the driver and its libraries. */
const CUDA_CACHE_SHARE = 0.95;

/** Tokens whose logits are in memory at once for prompt log-probabilities: 33 MB at a vocabulary of 129,280. */
const LOGIT_SLICE = 64;

export interface LoadSettings {
  native: NativeLoadOptions;
  maxModelLen: number;
}

/** @throws EngineError BAD_OPTIONS when options contradict each other or the checkpoint. */
export function resolveSettings(options: EngineOptions, { config }: CheckpointInfo, tokenizer: Tokenizer): LoadSettings {
  const mtp = options.mtp >= 0 ? options.mtp : config.numMtpLayers > 0 ? DEFAULT_MTP : 0;
  if (mtp > 0 && config.numMtpLayers === 0) {
    throw new EngineError('BAD_OPTIONS', `--mtp ${mtp}: the checkpoint has no MTP block; use --mtp 0`);
  }
  const least = options.maxSequences * (1 + mtp) + MIN_PREFILL_TOKENS;
  if (options.stepTokens < least) {
    throw new EngineError(
      'BAD_OPTIONS',
      `--step-tokens ${options.stepTokens} is too few for ${options.maxSequences} sequences with ${mtp} drafts; ` +
        `use at least ${least} or lower --max-sequences`,
    );
  }
  if (tokenizer.vocabSize > config.vocabSize) {
    throw new EngineError(
      'BAD_OPTIONS',
      `the tokenizer has ${tokenizer.vocabSize} tokens, the model only ${config.vocabSize}; ` +
        "use the model's own, or a smaller one with --tokenizer",
    );
  }
  // How long texts may be is told by the model's own tokenizer; one that stands in for it belongs to another model.
  const ownLength = options.tokenizerPath === undefined ? tokenizer.maxLength : undefined;
  const longest = Math.min(config.maxContext, ownLength ?? Infinity);
  if (options.maxModelLen > config.maxContext) {
    throw new EngineError(
      'BAD_OPTIONS',
      `--max-model-len ${options.maxModelLen} is more than the checkpoint's ${config.maxContext} positions`,
    );
  }
  if (options.maxModelLen === 1) {
    throw new EngineError('BAD_OPTIONS', '--max-model-len 1 has no room for a prompt and an answer; use at least 2');
  }
  const maxModelLen = options.maxModelLen > 0 ? options.maxModelLen : longest;
  return {
    maxModelLen,
    native: {
      device: options.device,
      devices: options.devices,
      tp: options.tp,
      threads: options.threads,
      numerics: options.numerics,
      rowFormat: options.kvCache,
      mtp,
      loadFormat: options.loadFormat,
      dummySeed: options.dummySeed,
      layers: options.layers,
      stepTokens: options.stepTokens,
      maxRows: options.maxSequences,
      contextTokens: maxModelLen,
      logitSlice: LOGIT_SLICE,
      hostBytes: Math.min(totalmem(), process.constrainedMemory() || Infinity),
    },
  };
}

/** @throws EngineError OUT_OF_MEMORY naming the option to turn. */
export async function allocateCache(native: NativeModel, options: EngineOptions, settings: LoadSettings): Promise<CachePlan> {
  const demand = {
    bytes: native,
    slots: options.maxSequences,
    stepTokens: options.stepTokens,
    mtp: native.mtp,
    maxModelLen: settings.maxModelLen,
  };
  const budgetBytes = options.kvMemoryBytes > 0 ? options.kvMemoryBytes : defaultBudget(native, options, demand);
  const plan = planCache({ ...demand, budgetBytes });
  if (options.maxModelLen > plan.maxModelLen) {
    throw new EngineError(
      'OUT_OF_MEMORY',
      `--max-model-len ${options.maxModelLen} does not fit: the cache has room for ${plan.maxModelLen} tokens of one ` +
        'sequence; lower it or give the cache more with --kv-memory',
    );
  }
  await native.allocateCache({ slots: plan.slots, windowBlocks: plan.windowBlocks, contextBlocks: plan.contextBlocks });
  return plan;
}

/** Bytes for the cache of each rank. */
export function defaultBudget(
  native: Pick<NativeModel, 'memory'>,
  { device, devices }: Pick<EngineOptions, 'device' | 'devices'>,
  demand: Omit<CacheDemand, 'budgetBytes'>,
): number {
  // Pages of cached files count as available, and a container's limit is known; the native figure knows neither.
  if (device === 'cpu') return Math.min(roomyBytes(demand), process.availableMemory() * CPU_CACHE_SHARE);
  const free = Math.min(...native.memory().map(({ freeBytes }) => freeBytes));
  return (free * CUDA_CACHE_SHARE) / mostRanksOnOneDevice(devices);
}

/** Ranks that share a device share its free memory. */
function mostRanksOnOneDevice(devices: readonly number[]): number {
  return Math.max(1, ...devices.map((device) => devices.filter((other) => other === device).length));
}
