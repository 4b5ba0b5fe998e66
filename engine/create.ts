// SPDX-License-Identifier: MIT

import { KvCache } from './cache/kv-cache.ts';
import { Constraints } from './constraints.ts';
import { ServingEngine } from './engine.ts';
import { allocateCache, resolveSettings } from './load-settings.ts';
import type { LoadSettings } from './load-settings.ts';
import { describeModel } from './model-info.ts';
import { fromNative } from './native-error.ts';
import { loadAddon } from './native.ts';
import type { CheckpointInfo, NativeAddon, NativeModel } from './native.ts';
import { Prompts } from './prompts.ts';
import type { QueueLimits } from './scheduler/admission.ts';
import { Scheduler } from './scheduler/scheduler.ts';
import type { SchedulerLimits } from './scheduler/scheduler.ts';
import { THINK_CLOSE } from './text/chat-constants.ts';
import { GrammarService } from './text/grammar/service.ts';
import { loadTokenizer } from './text/tokenizer.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import type { Engine, EngineLogger, EngineOptions, LoadProgress } from './types.ts';
import { warmUp } from './warm-up.ts';

/** Share of the whole load that a stage begins at. */
const STAGE_START: Record<LoadProgress['stage'], number> = {
  config: 0,
  tokenizer: 0.02,
  weights: 0.05,
  cache: 0.9,
  warmup: 0.95,
  ready: 1,
};

/**
 * Loads a checkpoint and starts serving it.
 * @throws EngineError BAD_CHECKPOINT, BAD_CONFIG, BAD_OPTIONS, OUT_OF_MEMORY or UNSUPPORTED.
 */
export async function createEngine(
  options: EngineOptions,
  logger: EngineLogger,
  onProgress: (progress: LoadProgress) => void,
): Promise<Engine> {
  const report: Report = (stage, detail, within = 0) => {
    const begin = STAGE_START[stage];
    const end = stage === 'weights' ? STAGE_START.cache : begin;
    onProgress({ stage, fraction: begin + within * (end - begin), detail });
  };
  report('config', 'reading configuration and tensor headers');
  const { addon, checkpoint } = inspected(options.modelPath);
  report('tokenizer', 'reading tokenizer.json');
  const tokenizer = await loadTokenizer(options.tokenizerPath ?? options.modelPath);
  let native: NativeModel | undefined;
  try {
    const settings = resolveSettings(options, checkpoint, tokenizer);
    report('weights', 'loading weights');
    const onWeights = (fraction: number, detail: string): void => report('weights', detail, fraction);
    native = await addon.loadModel(options.modelPath, settings.native, onWeights);
    const engine = await startEngine({ options, checkpoint, settings, tokenizer, native, logger }, report);
    report('ready', `${engine.info.id} is ready`);
    return engine;
  } catch (cause) {
    await Promise.all([native?.close(), tokenizer.close()]);
    throw fromNative(cause);
  }
}

/** Before anything else is read, so that a folder that is no checkpoint is called that. */
function inspected(modelPath: string): { addon: NativeAddon; checkpoint: CheckpointInfo } {
  const addon = loadAddon();
  try {
    return { addon, checkpoint: addon.inspect(modelPath) };
  } catch (cause) {
    throw fromNative(cause);
  }
}

type Report = (stage: LoadProgress['stage'], detail: string, within?: number) => void;

interface LoadedParts {
  options: EngineOptions;
  checkpoint: CheckpointInfo;
  settings: LoadSettings;
  tokenizer: Tokenizer;
  native: NativeModel;
  logger: EngineLogger;
}

/** Divides the memory, runs the first step and puts the engine together. */
async function startEngine(loaded: LoadedParts, report: Report): Promise<Engine> {
  const { options, checkpoint, settings, tokenizer, native, logger } = loaded;
  report('cache', 'allocating the cache');
  const plan = await allocateCache(native, options, settings);
  const limits: SchedulerLimits = {
    slots: plan.slots,
    stepTokens: settings.native.stepTokens,
    mtp: native.mtp,
    vocabSize: native.vocabSize,
    maxModelLen: plan.maxModelLen,
    maxItlMs: options.maxItlMs,
  };
  const info = await describeModel({ options, checkpoint, tokenizer, native, plan, nativeOptions: settings.native });
  const thinkCloseToken = tokenizer.controlId(THINK_CLOSE);
  const shared = {
    info,
    native,
    tokenizer,
    prompts: new Prompts(tokenizer, info.encoderRevision, native.vocabSize),
    limits: { vocabSize: native.vocabSize, maxModelLen: plan.maxModelLen, eosToken: info.eosToken, thinkCloseToken },
    constraints: new Constraints(
      new GrammarService({ tokenizer, vocabSize: native.vocabSize }),
      native.vocabSize,
      thinkCloseToken,
    ),
    logger,
  };
  const engineWith = (queue: QueueLimits, prefixCache: boolean): ServingEngine => {
    const cache = new KvCache({ ...plan, mtp: native.mtp });
    return new ServingEngine({ ...shared, cache, scheduler: new Scheduler(limits, cache), queue, prefixCache });
  };
  report('warmup', 'preparing decode steps');
  await native.warmUp();
  report('warmup', 'first requests');
  const first = engineWith({ maxQueuedRequests: 1, maxQueuedTokens: Infinity }, false);
  try {
    await warmUp(first, limits);
  } catch (cause) {
    await shared.constraints.close();
    throw cause;
  } finally {
    await first.stop();
  }
  logger.info({ model: info.id, maxModelLen: info.maxModelLen, cache: info.cache, mtp: info.mtp }, 'engine is ready');
  return engineWith(options, options.prefixCache);
}
