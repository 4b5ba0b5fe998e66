// SPDX-License-Identifier: MIT
// The typed face of the addon; the only file that loads it. Mirrors native/runtime/step.h and native/runtime/model.h.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { EngineError } from './errors.ts';

export const ROW_SAMPLE = 1;
export const ROW_RESUME = 2;
export const ROW_ALL_LOGPROBS = 4;
export const ROW_ALL_LOGITS = 8;

/** One engine step. R rows (decode rows first), T tokens, S sampling rows, V vocabulary. See native/runtime/step.h. */
export interface StepPlan {
  slot: Int32Array; // [R]
  position: Int32Array; // [R] absolute position of the row's first token
  count: Int32Array; // [R]
  drafts: Int32Array; // [R] trailing tokens that are drafts to verify
  nextToken: Int32Array; // [R] known token behind the row, or -1
  flags: Uint8Array; // [R]
  windowBase: Int32Array; // [R] logical number of the first window block
  windowOffset: Int32Array; // [R + 1]
  windowBlocks: Int32Array; // physical, covering max(0, position - 127) .. position + count - 1 + mtp
  contextOffset: Int32Array; // [R + 1]
  contextBlocks: Int32Array; // physical, from logical block 0
  tokens: Int32Array; // [T]
  // Sampling rows, in row order.
  temperature: Float32Array; // [S] 0 = greedy
  topP: Float32Array;
  topK: Int32Array;
  minP: Float32Array;
  repetitionPenalty: Float32Array;
  presencePenalty: Float32Array;
  frequencyPenalty: Float32Array;
  seed: BigUint64Array;
  logprobs: Int32Array; // [S] -1 none, 0..20 alternatives
  penaltyOffset: Int32Array; // [S + 1]
  penaltyTokens: Int32Array;
  penaltyCounts: Int32Array;
  biasOffset: Int32Array; // [S + 1]
  biasTokens: Int32Array;
  biasValues: Float32Array;
  maskRow: Int32Array; // [S] first of 1 + drafts rows in masks, or -1
  masks: Uint32Array; // [.., ceil(V / 32)]
}

/** K = drafts per step of the model. */
export interface StepResult {
  acceptedCount: Int32Array; // [S] 1..1+K
  accepted: Int32Array; // [S, 1 + K] -1 padded
  drafts: Int32Array; // [S, K] -1 padded
  topWidth: number;
  logprobs: Float32Array; // [S, 1 + K]
  topTokens: Int32Array; // [S, 1 + K, topWidth]
  topLogprobs: Float32Array;
  promptLogprobs: Float32Array; // [tokens of ROW_ALL_LOGPROBS rows]: of the following token; NaN if unknown
  promptTopTokens: Int32Array;
  promptTopLogprobs: Float32Array;
  logits: Float32Array; // [tokens of ROW_ALL_LOGITS rows, V]
  mtpLogits: Float32Array;
  micros: number;
  gathersOverlapped: number;
  gathersInline: number;
  reductionsOverlapped: number;
  reductionsInline: number;
}

export interface NativeLoadOptions {
  device: 'cpu' | 'cuda';
  devices: number[]; // one per rank, may repeat; empty: 0, 1, …
  tp: number;
  threads: number; // 0: all cores that the process may use
  numerics: 'exact' | 'served';
  rowFormat: 'f32' | 'bf16' | 'fp8';
  mtp: number; // 0..4
  loadFormat: 'auto' | 'dummy';
  dummySeed: number;
  layers: number; // 0: all
  stepTokens: number;
  maxRows: number;
  contextTokens: number;
  /** Tokens of ROW_ALL_LOGPROBS and ROW_ALL_LOGITS rows whose logits are in memory at once; 0: no such rows. */
  logitSlice: number;
  /** Memory of the machine, which the weights of the CPU backend have to fit into; 0: not known. */
  hostBytes: number;
}

export interface CacheBytes {
  rowFormat: 'f32' | 'bf16' | 'fp8';
  mtp: boolean;
  windowBlockBytes: number;
  contextBlockBytes: number;
  slotBytes: number;
}

export interface CheckpointInfo {
  config: {
    vocabSize: number;
    hiddenSize: number;
    numLayers: number;
    numMtpLayers: number;
    numHeads: number;
    indexTopk: number;
    numExperts: number;
    expertsPerToken: number;
    maxContext: number;
    bosToken: number;
    eosToken: number;
    dspark: boolean;
    layers: ('swa' | 'csa' | 'hca')[];
  };
  /** Tensor statistics by kind ("routed experts", "attention", "embedding", …). */
  tensors: { kind: string; dtype: string; tensors: number; parameters: number; bytes: number }[];
  /** False: no weights in the folder; `tensors` is what config.json asks for. */
  weightsPresent: boolean;
  /** Cache bytes for each row format, without and with the MTP layer's rows. */
  cache: CacheBytes[];
}

export interface NativeModel {
  readonly vocabSize: number;
  readonly mtp: number;
  /** Per rank, after the weights are in place. */
  memory(): { freeBytes: number; totalBytes: number }[];
  windowBlockBytes: number;
  contextBlockBytes: number;
  slotBytes: number;
  weightBytes: number;
  fingerprint: string;
  allocateCache(plan: { slots: number; windowBlocks: number; contextBlocks: number }): Promise<void>;
  /** Prepares every shape of decode step (CUDA graphs), over garbage: between allocateCache and the first step that counts. */
  warmUp(): Promise<void>;
  /** One at a time. Typed arrays are copied before it returns; rejects with an Error that has a `code`. */
  step(plan: StepPlan): Promise<StepResult>;
  close(): Promise<void>;
}

export interface NativeAddon {
  /** Reads configuration and headers only. */
  inspect(path: string): CheckpointInfo;
  loadModel(
    path: string,
    options: NativeLoadOptions,
    onProgress: (fraction: number, detail: string) => void,
  ): Promise<NativeModel>;
  buildInfo(): { version: string; cuda: boolean; cudaArchs: string[]; cpu: string };
}

/**
 * Loads native/build/Release/twelvex.node.
 * @throws EngineError UNSUPPORTED with the command that builds it.
 */
export function loadAddon(): NativeAddon {
  const require = createRequire(import.meta.url);
  const file = addonPath();
  try {
    return require(file) as NativeAddon;
  } catch (cause) {
    throw new EngineError('UNSUPPORTED', `cannot load ${file}: ${String(cause)}; build it with: npm run build`, {}, cause);
  }
}

/** The project root is two levels up from dist/engine/, one level up from engine/. */
function addonPath(): string {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const root = here.includes('/dist/') ? new URL('../../', import.meta.url) : new URL('../', import.meta.url);
  return fileURLToPath(new URL('native/build/Release/twelvex.node', root));
}
