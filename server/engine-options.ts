// SPDX-License-Identifier: MIT
// What the engine is started with: the options of the user, with what they left open decided by device and checkpoint.

import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import type { BuildInfo, EngineOptions } from '../engine/index.ts';
import { ConfigError } from './config.ts';
import type { Config } from './config.ts';
import { resolveModel } from './hub.ts';
import type { HubProgress } from './hub.ts';

const hubConnections = 4;

/** Defaults that depend on the device; the CPU's are for the small models it can serve. */
export const deviceDefaults = {
  cpu: { numerics: 'exact', kvCache: 'f32', maxSequences: 16, stepTokens: 512 },
  cuda: { numerics: 'served', kvCache: 'fp8', maxSequences: 64, stepTokens: 8192 },
} as const;

/** Name of the checkpoint: the first served name, the repository, or the directory. */
function modelId({ servedModelName, model }: Config): string {
  const named = servedModelName.find((name) => name !== '*');
  return named ?? (existsSync(model) ? basename(model.replace(/\/+$/, '')) : (model.split('@')[0] ?? model));
}

export function chosenDevice(config: Config, build: Pick<BuildInfo, 'cuda'>): 'cpu' | 'cuda' {
  if (config.device !== 'auto') return config.device;
  // A container on Windows sees its GPU as dxg.
  return build.cuda && ['/dev/nvidia0', '/dev/dxg'].some((device) => existsSync(device)) ? 'cuda' : 'cpu';
}

/**
 * @param modelPath directory of the checkpoint, see modelDirectory
 * @throws ConfigError for options that exclude each other
 */
export function engineOptions(config: Config, modelPath: string, build: Pick<BuildInfo, 'cuda'>): EngineOptions {
  if (config.layers > 0 && config.loadFormat !== 'dummy') {
    throw new ConfigError('--layers leaves layers out of dummy weights only; add --load-format dummy');
  }
  const device = chosenDevice(config, build);
  const defaults = deviceDefaults[device];
  return {
    modelPath,
    ...(config.tokenizer !== undefined && { tokenizerPath: config.tokenizer }),
    modelId: modelId(config),
    device,
    devices: config.devices.length > 0 ? config.devices : Array.from({ length: config.tp }, (_, rank) => rank),
    tp: config.tp,
    threads: config.threads,
    numerics: config.numerics === 'auto' ? defaults.numerics : config.numerics,
    kvCache: config.kvCache === 'auto' ? defaults.kvCache : config.kvCache,
    mtp: config.mtp,
    loadFormat: config.loadFormat,
    dummySeed: config.dummySeed,
    layers: config.layers,
    maxModelLen: config.maxModelLen,
    maxSequences: config.maxSequences === 0 ? defaults.maxSequences : config.maxSequences,
    stepTokens: config.stepTokens === 0 ? defaults.stepTokens : config.stepTokens,
    kvMemoryBytes: config.kvMemoryBytes,
    maxItlMs: config.maxItlMs,
    maxQueuedRequests: config.maxQueuedRequests,
    maxQueuedTokens: config.maxQueuedTokens,
    prefixCache: config.prefixCache,
    encoder: config.encoder,
  };
}

/**
 * Directory of the checkpoint that --model names, downloaded when it is not there.
 * @throws HubError naming what was tried and what to do.
 */
export function modelDirectory(config: Config, onProgress: (progress: HubProgress) => void): Promise<string> {
  return resolveModel(config.model, {
    cacheDir: join(config.hfHome ?? join(homedir(), '.cache/huggingface'), 'hub'),
    concurrency: hubConnections,
    onProgress,
    ...(config.hfEndpoint !== undefined && { endpoint: config.hfEndpoint }),
    ...(config.hfToken !== undefined && { token: config.hfToken }),
  });
}
