// SPDX-License-Identifier: MIT
// Is the first request after start as fast as the hundredth? The same kind of request again and again, alone, on the engine.
//
//   node dist/bench/first-request.js [--model DIR] [--device cpu] [--requests 100] [--prompt-tokens 1036]
//     [--answer-tokens 16] ...
//
// Fails when the first takes more than 1.1 times as long as the median of the last twenty.

import { writeFileSync } from 'node:fs';
import { createEngine } from '../engine/index.ts';
import { distribution } from '../server/cli/bench/measure.ts';
import { quiet, randomRequest, readArguments } from './engine-arguments.ts';

const MOST = 1.1;
const { engine: options, json, own } = readArguments({ requests: 100, 'prompt-tokens': 1036, 'answer-tokens': 16 });

interface Times {
  firstTokenMs: number;
  totalMs: number;
}

const started = performance.now();
const engine = await createEngine(options, quiet, () => {});
const readyMs = performance.now() - started;
const times: Times[] = [];
try {
  for (let i = 0; i < own['requests']!; i++) {
    const begin = performance.now();
    let firstTokenMs = NaN;
    for await (const batch of engine.generate(
      randomRequest(own['prompt-tokens']!, own['answer-tokens']!, engine.info.vocabSize),
    )) {
      if (Number.isNaN(firstTokenMs) && batch.some(({ kind }) => kind === 'tokens')) firstTokenMs = performance.now() - begin;
    }
    times.push({ firstTokenMs, totalMs: performance.now() - begin });
  }
} finally {
  await engine.close();
}

const last = times.slice(-20);
console.log(
  `ready after ${(readyMs / 1000).toFixed(1)} s; ${own['prompt-tokens']} tokens in, ${own['answer-tokens']} out, one at a time`,
);
let failed = false;
for (const field of ['firstTokenMs', 'totalMs'] as const) {
  const first = times[0]![field];
  const later = distribution(
    last.map((time) => time[field]),
    [],
  ).median;
  failed ||= first > MOST * later;
  const name = field === 'firstTokenMs' ? 'first token' : 'whole answer';
  console.log(
    `${name}: request 1 ${first.toFixed(1)} ms, median of the last ${last.length} ${later.toFixed(1)} ms, ` +
      `${(first / later).toFixed(2)}x`,
  );
}
if (json !== undefined) writeFileSync(json, `${JSON.stringify({ options, readyMs, times }, null, 2)}\n`);
process.exitCode = failed ? 1 : 0;
