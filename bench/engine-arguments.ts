// SPDX-License-Identifier: MIT
// The engine of a benchmark from its command line, and requests of random tokens.

import { parseArgs } from 'node:util';
import { greedyRequest } from '../engine/index.ts';
import type { EngineLogger, EngineOptions, GenerationRequest } from '../engine/index.ts';

/** Options that every benchmark of an engine takes: node PROGRAM [--model DIR] [--device cpu|cuda] [--tp 1] ... */
const COMMON = {
  model: { type: 'string', default: 'models/demo' },
  tokenizer: { type: 'string' },
  device: { type: 'string', default: 'cpu' },
  tp: { type: 'string', default: '1' },
  devices: { type: 'string', default: '0' },
  threads: { type: 'string', default: '0' },
  numerics: { type: 'string' },
  'kv-cache': { type: 'string' },
  mtp: { type: 'string', default: '2' },
  layers: { type: 'string', default: '0' },
  dummy: { type: 'boolean', default: false },
  'step-tokens': { type: 'string', default: '0' },
  'max-itl': { type: 'string', default: '100' },
  json: { type: 'string' },
} as const;

export interface EngineArguments {
  cuda: boolean;
  engine: EngineOptions;
  json?: string;
  /** The program's own options, numbers all of them. */
  own: Record<string, number>;
}

/** `own`: names and defaults of the program's own options. */
export function readArguments(own: Record<string, number>): EngineArguments {
  const extra = Object.fromEntries(
    Object.entries(own).map(([name, value]) => [name, { type: 'string', default: String(value) }]),
  );
  const { values } = parseArgs({ options: { ...COMMON, ...(extra as Record<string, { type: 'string'; default: string }>) } });
  const cuda = values.device === 'cuda';
  const engine: EngineOptions = {
    modelPath: values.model,
    ...(values.tokenizer === undefined ? {} : { tokenizerPath: values.tokenizer }),
    modelId: 'bench',
    device: cuda ? 'cuda' : 'cpu',
    devices: values.devices.split(',').map(Number),
    tp: Number(values.tp),
    threads: Number(values.threads),
    numerics: (values.numerics ?? (cuda ? 'served' : 'exact')) as EngineOptions['numerics'],
    kvCache: (values['kv-cache'] ?? (cuda ? 'fp8' : 'f32')) as EngineOptions['kvCache'],
    mtp: Number(values.mtp),
    loadFormat: values.dummy ? 'dummy' : 'auto',
    dummySeed: 0,
    layers: Number(values.layers),
    maxModelLen: 0,
    maxSequences: 16,
    stepTokens: Number(values['step-tokens']) || (cuda ? 8192 : 512),
    kvMemoryBytes: 0,
    maxItlMs: Number(values['max-itl']),
    maxQueuedRequests: 100,
    maxQueuedTokens: 1e6,
    prefixCache: false,
    encoder: 'auto',
  };
  const all = values as Record<string, string | boolean | undefined>;
  const read = Object.fromEntries(Object.keys(own).map((name) => [name, Number(all[name])]));
  return { cuda, engine, ...(values.json === undefined ? {} : { json: values.json }), own: read };
}

export const quiet: EngineLogger = { info: () => {}, warn: () => {}, error: console.error, debug: () => {} };

let requests = 0;

/** Greedy, of random tokens drawn afresh; the end token does not end it. */
export function randomRequest(tokens: number, maxTokens: number, vocabulary: number): GenerationRequest {
  const ids = Int32Array.from({ length: tokens }, () => 3 + Math.floor(Math.random() * (vocabulary - 3)));
  return greedyRequest(`random-${requests++}`, ids, maxTokens);
}
