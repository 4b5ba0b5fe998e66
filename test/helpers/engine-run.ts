// SPDX-License-Identifier: MIT
// A real engine over the scripted model and a tokenizer of one letter a token.

import { KvCache } from '../../engine/cache/kv-cache.ts';
import { Constraints } from '../../engine/constraints.ts';
import { ServingEngine } from '../../engine/engine.ts';
import type { EngineParts } from '../../engine/engine.ts';
import { GREEDY } from '../../engine/greedy-request.ts';
import { Prompts } from '../../engine/prompts.ts';
import { Scheduler } from '../../engine/scheduler/scheduler.ts';
import { GrammarService } from '../../engine/text/grammar/service.ts';
import type { Tokenizer } from '../../engine/text/tokenizer.ts';
import type { EngineLogger, GenerationEvent, GenerationRequest, ModelInfo } from '../../engine/types.ts';
import { EOS, SMALL } from './scheduler-run.ts';
import type { RunSizes } from './scheduler-run.ts';
import { ScriptedNative } from './scripted-native.ts';

const VOCABULARY = 64;
const LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';
const SILENT: EngineLogger = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} };

/** Token 0 and 1 are control tokens, token i > 1 is the letter i - 2. `encodeMs` delays tokenising. */
export function letterTokenizer(encodeMs = 0): Tokenizer {
  const literal = (id: number): string => ['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>'][id] ?? LETTERS[id - 2] ?? '';
  const encode = async (text: string, signal?: AbortSignal): Promise<Int32Array> => {
    if (encodeMs > 0) await new Promise((resolve) => setTimeout(resolve, encodeMs));
    signal?.throwIfAborted();
    return Int32Array.from([...text].map((letter) => LETTERS.indexOf(letter) + 2));
  };
  return {
    vocabSize: VOCABULARY,
    bosToken: 0,
    eosToken: EOS,
    maxLength: undefined,
    encodeText: (text, _options, signal) => encode(text, signal),
    encodeSegments: (segments, signal) => encode(segments.map(({ text }) => text).join(''), signal),
    tokenBytes: (id) => Buffer.from(literal(id)),
    isControl: (id) => id < 2,
    controlId: () => 0,
    hasControl: () => true,
    close: async () => {},
  };
}

export function textOf(tokens: readonly number[]): string {
  return tokens.map((token) => (token < 2 ? '' : LETTERS[token - 2])).join('');
}

const INFO: ModelInfo = {
  id: 'scripted',
  path: '/nowhere',
  created: 0,
  vocabSize: VOCABULARY,
  maxModelLen: SMALL.maxModelLen,
  bosToken: 0,
  eosToken: EOS,
  encoderRevision: 'preview',
  layers: { swa: 1, csa: 1, hca: 1 },
  mtp: SMALL.mtp,
  device: 'cpu',
  ranks: 1,
  numerics: 'exact',
  rowFormat: 'f32',
  generationDefaults: { temperature: 1, topP: 1 },
  fingerprint: 'fp_scripted',
  cache: { blockTokens: 128, contextBlocks: SMALL.contextBlocks, windowBlocks: SMALL.windowBlocks, slots: SMALL.slots },
};

export interface EngineRunOptions extends Partial<RunSizes> {
  maxQueuedRequests?: number;
  maxQueuedTokens?: number;
  prefixCache?: boolean;
  encodeMs?: number;
  constraints?: Constraints;
  /** Real time of a step. */
  delayMs?: number;
}

export interface EngineRun {
  engine: ServingEngine;
  native: ScriptedNative;
  sizes: RunSizes;
}

export function startEngine(options: EngineRunOptions = {}): EngineRun {
  const sizes: RunSizes = { ...SMALL, ...options };
  const cache = new KvCache(sizes);
  const native = new ScriptedNative({
    mtp: sizes.mtp,
    stepTokens: sizes.stepTokens,
    contextTokens: sizes.maxModelLen,
    delayMs: options.delayMs ?? 0,
  });
  void native.allocateCache(sizes);
  const tokenizer = letterTokenizer(options.encodeMs);
  const parts: EngineParts = {
    info: { ...INFO, maxModelLen: sizes.maxModelLen, mtp: sizes.mtp },
    native,
    cache,
    scheduler: new Scheduler(sizes, cache),
    tokenizer,
    prompts: new Prompts(tokenizer, 'preview', VOCABULARY),
    limits: { vocabSize: VOCABULARY, maxModelLen: sizes.maxModelLen, eosToken: EOS, thinkCloseToken: 0 },
    queue: { maxQueuedRequests: options.maxQueuedRequests ?? 1000, maxQueuedTokens: options.maxQueuedTokens ?? 1e6 },
    constraints: options.constraints ?? new Constraints(new GrammarService({ tokenizer, vocabSize: VOCABULARY }), VOCABULARY, 0),
    prefixCache: options.prefixCache ?? true,
    logger: SILENT,
  };
  return { engine: new ServingEngine(parts), native, sizes };
}

let requests = 0;

export function generationRequest(tokens: ArrayLike<number>, changes: Partial<GenerationRequest> = {}): GenerationRequest {
  return {
    id: `request-${requests++}`,
    input: { kind: 'tokens', tokens: Int32Array.from(tokens) },
    sampling: { ...GREEDY, seed: 7n },
    stop: { strings: [], tokens: [], includeInOutput: false, ignoreEos: false, minTokens: 0 },
    maxTokens: 16,
    n: 1,
    logprobs: -1,
    promptLogprobs: -1,
    ...changes,
  };
}

type EndEvent = GenerationEvent & { kind: 'end' };

/** Everything that came of one choice. */
export interface Collected {
  events: GenerationEvent[];
  tokens: number[];
  text: string;
  ends: EndEvent[];
  end: EndEvent;
}

export function collected(events: readonly GenerationEvent[], choice = 0): Collected {
  const own = events.filter((event) => event.choice === choice);
  const ends = own.filter((event) => event.kind === 'end');
  return {
    events: own,
    tokens: own.flatMap((event) => (event.kind === 'tokens' ? event.ids : [])),
    text: own.map((event) => (event.kind === 'answer' ? event.text : '')).join(''),
    ends,
    end: ends[0]!,
  };
}

/** Runs a request to its end. */
export async function collect(engine: ServingEngine, request: GenerationRequest): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = [];
  for await (const batch of engine.generate(request)) events.push(...batch);
  return events;
}

export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
