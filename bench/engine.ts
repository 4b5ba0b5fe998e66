// SPDX-License-Identifier: MIT
// Speed and memory of the engine on one checkpoint, without HTTP:
//   node dist/bench/engine.js [--model DIR] [--threads 0] [--numerics exact] [--kv-cache f32] [--rounds 3] [--json FILE]

import { writeFileSync } from 'node:fs';
import { createEngine, greedyRequest } from '../engine/index.ts';
import type { Engine, GenerationRequest } from '../engine/index.ts';
import { quiet, readArguments } from './engine-arguments.ts';

const { engine: options, json, own } = readArguments({ rounds: 3 });
const rounds = own['rounds']!;

let requests = 0;

function request(tokens: Int32Array, maxTokens: number): GenerationRequest {
  return greedyRequest(`bench-${requests++}`, tokens, maxTokens);
}

interface Run {
  firstTokenMs: number;
  totalMs: number;
  tokens: number;
}

async function run(engine: Engine, asked: GenerationRequest): Promise<Run> {
  const begin = performance.now();
  let firstTokenMs = NaN;
  let tokens = 0;
  for await (const batch of engine.generate(asked)) {
    for (const event of batch) {
      if (event.kind !== 'tokens') continue;
      if (tokens === 0) firstTokenMs = performance.now() - begin;
      tokens += event.ids.length;
    }
  }
  return { firstTokenMs, totalMs: performance.now() - begin, tokens };
}

/** A story of about `length` tokens, different for each `variant`, cut to the length. */
async function prompt(engine: Engine, length: number, variant: number): Promise<Int32Array> {
  const sentences: string[] = [];
  for (let i = 0; sentences.length * 8 < length; i++) {
    sentences.push(`Story ${variant}, part ${i}: the small cat ${i * variant} went to the garden and found a red key.`);
  }
  const tokens = await engine.encode({ kind: 'text', text: sentences.join(' ') });
  return tokens.subarray(0, length);
}

async function best(rounds: number, measure: (round: number) => Promise<number>, better = Math.max): Promise<number> {
  let found = await measure(0);
  for (let round = 1; round < rounds; round++) found = better(found, await measure(round));
  return found;
}

const DECODE_TOKENS = 128;
const STREAMS = 8;
/** With the answer behind it the demo model's whole context. */
const CONTEXT_TOKENS = 8100;

async function decodeRate(engine: Engine, variant: number): Promise<number> {
  const asked = request(await storyPrompt(engine, variant), DECODE_TOKENS);
  const { tokens, totalMs, firstTokenMs } = await run(engine, asked);
  return ((tokens - 1) / (totalMs - firstTokenMs)) * 1000;
}

/** Text the demo model was made for, so that drafts are as good as they are in use. */
function storyPrompt(engine: Engine, variant: number): Promise<Int32Array> {
  const animals = ['cat', 'dog', 'turtle', 'bird', 'fox', 'rabbit', 'mouse', 'lion'];
  const content = `Tell me a story about a ${animals[variant % animals.length]}.`;
  return engine.encode({ kind: 'chat', messages: [{ role: 'user', content }], thinking: true });
}

async function aggregateRate(engine: Engine): Promise<number> {
  const prompts = await Promise.all(Array.from({ length: STREAMS }, (_, i) => storyPrompt(engine, i)));
  const begin = performance.now();
  const runs = await Promise.all(prompts.map((tokens) => run(engine, request(tokens, DECODE_TOKENS))));
  return (runs.reduce((sum, { tokens }) => sum + tokens, 0) / (performance.now() - begin)) * 1000;
}

async function measureWith(mtp: number): Promise<Record<string, number>> {
  const engine = await createEngine({ ...options, mtp, prefixCache: true }, quiet, () => {});
  const measured: Record<string, number> = {};
  const prefill = (length: number): Promise<number> =>
    best(rounds, async (round) => {
      const tokens = await prompt(engine, length, length * 10 + round);
      return (length / (await run(engine, request(tokens, 1))).firstTokenMs) * 1000;
    });
  if (mtp === 0) {
    measured['prefill 512 tok/s'] = await prefill(512);
    measured['prefill 2048 tok/s'] = await prefill(2048);
    let coldMs = Infinity;
    let cachedMs = Infinity;
    for (let round = 0; round < rounds; round++) {
      const tokens = await prompt(engine, 2000, 7 + round);
      coldMs = Math.min(coldMs, (await run(engine, request(tokens, 1))).firstTokenMs);
      cachedMs = Math.min(cachedMs, (await run(engine, request(tokens, 1))).firstTokenMs);
    }
    measured['TTFT cold 2000 ms'] = coldMs;
    measured['TTFT cached 2000 ms'] = cachedMs;
    measured['TTFT cached / cold %'] = (cachedMs / coldMs) * 100;
  }
  await decodeRate(engine, 0);
  measured[`decode mtp ${mtp} tok/s`] = await best(rounds, (round) => decodeRate(engine, round));
  measured[`${STREAMS} streams mtp ${mtp} tok/s`] = await best(rounds, () => aggregateRate(engine));
  const { draftTokens, acceptedTokens } = engine.stats();
  if (mtp > 0) measured[`drafts accepted mtp ${mtp} %`] = (acceptedTokens / draftTokens) * 100;
  if (mtp > 0) {
    await run(engine, request(await prompt(engine, CONTEXT_TOKENS, 99), 64));
    measured['resident with 8K context MB'] = process.memoryUsage().rss / 1e6;
  }
  await engine.close();
  return measured;
}

const measured = { ...(await measureWith(0)), ...(await measureWith(2)) };
for (const [name, value] of Object.entries(measured)) console.log(`${name.padEnd(28)} ${value.toFixed(1).padStart(10)}`);
if (json !== undefined) writeFileSync(json, `${JSON.stringify({ options, measured }, null, 2)}\n`);
