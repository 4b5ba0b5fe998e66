// SPDX-License-Identifier: MIT
// What chats feel when long prompts arrive: some streams decode, then several long prompts come at once. Gaps between a chat's
// tokens before, while and after the prompts are computed, and when each prompt gets its first token. On the engine,
// without HTTP.
//
//   node dist/bench/mixed-load.js [--model models/demo] [--device cpu] [--tp 1] [--devices 0] [--mtp 2] [--layers 0] [--dummy]
//     [--tokenizer DIR] [--chats 8] [--prompts 8] [--prompt-tokens 8192] [--step-tokens N] [--max-itl 100] [--json FILE]

import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createEngine } from '../engine/index.ts';
import type { Engine, GenerationRequest } from '../engine/index.ts';
import { percentile } from '../server/cli/bench/measure.ts';
import { quiet, randomRequest, readArguments } from './engine-arguments.ts';

const { cuda, engine: options, json, own } = readArguments({ chats: 8, prompts: 8, 'prompt-tokens': 8192 });
const promptTokens = own['prompt-tokens']!;

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
    medianMs: percentile(gaps, 50),
    p99Ms: percentile(gaps, 99),
    longestMs: gaps.at(-1) ?? NaN,
    tokensPerSecond: tokens / ((end - begin) / 1000),
  };
}

const engine = await createEngine(options, quiet, () => {});
try {
  const vocabulary = engine.info.vocabSize;
  const stop = new AbortController();
  const room = engine.info.maxModelLen - 300;
  const chats = Array.from({ length: own['chats']! }, () => stream(engine, randomRequest(256, room, vocabulary), stop.signal));
  await sleep(cuda ? 2000 : 4000);
  const begin = performance.now();
  const prompts = Array.from({ length: own['prompts']! }, () => stream(engine, randomRequest(promptTokens, 1, vocabulary)));
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
  if (json !== undefined) writeFileSync(json, `${JSON.stringify({ options, phases, firsts, rate }, null, 2)}\n`);
} finally {
  await engine.close();
}
