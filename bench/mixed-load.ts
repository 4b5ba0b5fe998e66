// SPDX-License-Identifier: MIT
// What chats feel when long prompts arrive: some streams decode, then several long prompts come at once. Gaps between a chat's
// tokens before, while and after the prompts are computed, and when each prompt gets its first token. On the engine, without HTTP.
//
//   node dist/bench/mixed-load.js [--model models/demo] [--device cpu] [--tp 1] [--devices 0] [--mtp 2] [--layers 0] [--dummy]
//     [--tokenizer DIR] [--chats 8] [--prompts 8] [--prompt-tokens 8192] [--step-tokens 0] [--max-itl 100] [--json FILE]

import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createEngine } from '../engine/index.ts';
import type { Engine, EngineLogger, EngineOptions, GenerationRequest } from '../engine/index.ts';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'models/demo' },
    tokenizer: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    tp: { type: 'string', default: '1' },
    devices: { type: 'string', default: '0' },
    mtp: { type: 'string', default: '2' },
    layers: { type: 'string', default: '0' },
    dummy: { type: 'boolean', default: false },
    chats: { type: 'string', default: '8' },
    prompts: { type: 'string', default: '8' },
    'prompt-tokens': { type: 'string', default: '8192' },
    'step-tokens': { type: 'string', default: '0' },
    'max-itl': { type: 'string', default: '100' },
    json: { type: 'string' },
  },
});

const cuda = values.device === 'cuda';
const promptTokens = Number(values['prompt-tokens']);
const quiet: EngineLogger = { info: () => {}, warn: () => {}, error: console.error, debug: () => {} };

const options: EngineOptions = {
  modelPath: values.model,
  ...(values.tokenizer === undefined ? {} : { tokenizerPath: values.tokenizer }),
  modelId: 'bench',
  device: cuda ? 'cuda' : 'cpu',
  devices: values.devices.split(',').map(Number),
  tp: Number(values.tp),
  threads: 0,
  numerics: cuda ? 'served' : 'exact',
  kvCache: cuda ? 'fp8' : 'f32',
  mtp: Number(values.mtp),
  loadFormat: values.dummy ? 'dummy' : 'auto',
  dummySeed: 0,
  layers: Number(values.layers),
  maxModelLen: 0,
  maxSequences: Number(values.chats) + Number(values.prompts),
  stepTokens: Number(values['step-tokens']) || (cuda ? 8192 : 512),
  kvMemoryBytes: 0,
  maxItlMs: Number(values['max-itl']),
  maxQueuedRequests: 100,
  maxQueuedTokens: 1e6,
  prefixCache: false,
  encoder: 'auto',
};

let requests = 0;

function request(tokens: number, maxTokens: number, vocabulary: number): GenerationRequest {
  const ids = Int32Array.from({ length: tokens }, () => 3 + Math.floor(Math.random() * (vocabulary - 3)));
  return {
    id: `mixed-${requests++}`,
    input: { kind: 'tokens', tokens: ids },
    sampling: { temperature: 0, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0 },
    stop: { strings: [], tokens: [], includeInOutput: false, ignoreEos: true, minTokens: 0 },
    maxTokens,
    n: 1,
    logprobs: -1,
    promptLogprobs: -1,
  };
}

/** Times at which tokens arrived, and how many by each; leaves when `signal` says so. */
async function stream(engine: Engine, asked: GenerationRequest, signal?: AbortSignal): Promise<{ at: number; tokens: number }[]> {
  const arrivals: { at: number; tokens: number }[] = [];
  for await (const batch of engine.generate(asked)) {
    if (signal?.aborted === true) break;
    const tokens = batch.reduce((sum, event) => sum + (event.kind === 'tokens' ? event.ids.length : 0), 0);
    if (tokens > 0) arrivals.push({ at: performance.now(), tokens });
  }
  return arrivals;
}

const percentile = (sorted: readonly number[], part: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? NaN;

interface Phase {
  gaps: number;
  medianMs: number;
  p99Ms: number;
  longestMs: number;
  tokensPerSecond: number;
}

/** Gaps that end between two times, over all chats. */
function phase(chats: { at: number; tokens: number }[][], begin: number, end: number): Phase {
  const gaps: number[] = [];
  let tokens = 0;
  for (const arrivals of chats) {
    arrivals.forEach(({ at, tokens: count }, index) => {
      if (index === 0 || at < begin || at >= end) return;
      gaps.push(at - arrivals[index - 1]!.at);
      tokens += count;
    });
  }
  gaps.sort((a, b) => a - b);
  return {
    gaps: gaps.length,
    medianMs: percentile(gaps, 0.5),
    p99Ms: percentile(gaps, 0.99),
    longestMs: gaps.at(-1) ?? NaN,
    tokensPerSecond: tokens / ((end - begin) / 1000),
  };
}

const engine = await createEngine(options, quiet, () => {});
try {
  const vocabulary = engine.info.vocabSize;
  const stop = new AbortController();
  const room = engine.info.maxModelLen - 300;
  const chats = Array.from({ length: Number(values.chats) }, () => stream(engine, request(256, room, vocabulary), stop.signal));
  await sleep(cuda ? 2000 : 4000);
  const begin = performance.now();
  const prompts = Array.from({ length: Number(values.prompts) }, () => stream(engine, request(promptTokens, 1, vocabulary)));
  const firsts = (await Promise.all(prompts)).map((arrivals) => (arrivals[0]?.at ?? NaN) - begin);
  const end = performance.now();
  await sleep(cuda ? 2000 : 4000);
  const last = performance.now();
  stop.abort();
  const arrivals = await Promise.all(chats);
  const phases = {
    before: phase(arrivals, begin - (cuda ? 1000 : 2000), begin),
    during: phase(arrivals, begin, end),
    after: phase(arrivals, end + 200, last),
  };
  const rate = (prompts.length * promptTokens) / ((end - begin) / 1000);
  console.log(
    `${prompts.length} prompts of ${promptTokens} beside ${chats.length} chats: ${((end - begin) / 1000).toFixed(2)} s`,
  );
  console.log(`prompt tokens/s ${rate.toFixed(0)}; first tokens after ${firsts.map((ms) => ms.toFixed(0)).join(', ')} ms`);
  console.log('chats   gaps  median ms   p99 ms  longest ms  tokens/s');
  for (const [name, p] of Object.entries(phases)) {
    const cells = [
      String(p.gaps).padStart(6),
      ...[p.medianMs, p.p99Ms, p.longestMs, p.tokensPerSecond].map((x) => x.toFixed(1).padStart(10)),
    ];
    console.log(`${name.padEnd(6)}${cells.join(' ')}`);
  }
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify({ options, phases, firsts, rate }, null, 2)}\n`);
} finally {
  await engine.close();
}
