// SPDX-License-Identifier: MIT
// What is told about a loaded model, with what its files say about prompts and sampling.

import { join } from 'node:path';
import { BLOCK_TOKENS } from './cache/layout.ts';
import type { CachePlan } from './cache/layout.ts';
import { badFile, readJsonObject, readOptional, shownJson } from './json-file.ts';
import type { CheckpointInfo, NativeLoadOptions, NativeModel } from './native.ts';
import { MOST_TEMPERATURE } from './sequence-request.ts';
import type { EncoderRevision } from './text/chat-constants.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import type { EngineOptions, ModelInfo } from './types.ts';

export interface LoadedModel {
  options: EngineOptions;
  checkpoint: CheckpointInfo;
  tokenizer: Tokenizer;
  native: NativeModel;
  plan: CachePlan;
  nativeOptions: NativeLoadOptions;
}

export async function describeModel({
  options,
  checkpoint,
  tokenizer,
  native,
  plan,
  nativeOptions,
}: LoadedModel): Promise<ModelInfo> {
  const { config } = checkpoint;
  const served = config.layers.slice(0, options.layers > 0 ? options.layers : config.layers.length);
  const count = (kind: 'swa' | 'csa' | 'hca'): number => served.filter((layer) => layer === kind).length;
  return {
    id: options.modelId,
    path: options.modelPath,
    created: Math.floor(Date.now() / 1000),
    vocabSize: native.vocabSize,
    maxModelLen: plan.maxModelLen,
    bosToken: tokenizer.bosToken,
    eosToken: tokenizer.eosToken,
    encoderRevision: await encoderRevision(options.encoder, options.modelPath, config.dspark),
    layers: { swa: count('swa'), csa: count('csa'), hca: count('hca') },
    mtp: native.mtp,
    device: options.device,
    ranks: options.tp,
    numerics: nativeOptions.numerics,
    rowFormat: nativeOptions.rowFormat,
    generationDefaults: await generationDefaults(options.modelPath),
    fingerprint: `fp_${native.fingerprint}`,
    cache: {
      blockTokens: BLOCK_TOKENS,
      contextBlocks: plan.contextBlocks,
      windowBlocks: plan.windowBlocks,
      slots: plan.slots,
    },
  };
}

/**
 * `asked`, or for 'auto': the encoder shipped with the checkpoint knows the effort "low" since revision 0731; without one
 * the dspark_* keys of config.json tell.
 */
export async function encoderRevision(
  asked: EngineOptions['encoder'],
  modelPath: string,
  dspark: boolean,
): Promise<EncoderRevision> {
  if (asked !== 'auto') return asked;
  const source = await readOptional(join(modelPath, 'encoding', 'encoding_dsv4.py'));
  if (source !== undefined) return /["']low["']\s*:/.test(source) ? '0731' : 'preview';
  return dspark ? '0731' : 'preview';
}

/** Of generation_config.json; what it does not say is 1. Without do_sample the checkpoint asks for greedy answers. */
export async function generationDefaults(modelPath: string): Promise<ModelInfo['generationDefaults']> {
  const path = join(modelPath, 'generation_config.json');
  const file = await readJsonObject(path);
  const number = (name: string, most: number): number => {
    const value = file[name] ?? 1;
    if (typeof value === 'number' && value >= 0 && value <= most) return value;
    throw badFile(path, `expected ${name} to be a number from 0 to ${most}, found ${shownJson(value)}`);
  };
  const temperature = number('temperature', MOST_TEMPERATURE);
  return { temperature: file['do_sample'] === false ? 0 : temperature, topP: number('top_p', 1) };
}
