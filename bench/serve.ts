// SPDX-License-Identifier: MIT
// A whole server, measured as its clients see it: starts `twelvex serve` with the options after `--`, talks to it through the
// openai SDK, then sends prompts of random tokens and reads streams.
//
//   node dist/bench/serve.js [--sizes 1036,4491] [--streams 1,8,64] [--runs 3] [--json FILE] -- --model models/flash
//     --load-format dummy --tokenizer models/demo --device cuda --tp 2 --devices 0,1 --mtp 2
//
// Prompts are token ids drawn afresh for every run, so that no prefix is cached; answers ignore the end token.

import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import OpenAI from 'openai';
import { distribution } from '../server/cli/bench/measure.ts';

const { values, positionals } = parseArgs({
  options: {
    sizes: { type: 'string', default: '1036,4491,17891,63543' },
    streams: { type: 'string', default: '1,8,64' },
    runs: { type: 'string', default: '3' },
    tokens: { type: 'string', default: '64' },
    context: { type: 'string', default: '256' },
    'ready-limit': { type: 'string', default: '600' },
    json: { type: 'string' },
  },
  allowPositionals: true,
});

const runs = Number(values.runs);
const numbers = (list: string): number[] => list.split(',').filter(Boolean).map(Number);
const say = (line: string): void => void process.stdout.write(`${line}\n`);

interface Server {
  url: string;
  readySeconds: number;
  log: () => string;
  stop(): Promise<void>;
}

async function start(options: readonly string[]): Promise<Server> {
  const main = fileURLToPath(new URL('../server/main.js', import.meta.url));
  const began = performance.now();
  const child = spawn(process.execPath, [main, 'serve', '--port', '0', ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  const url = await new Promise<string>((resolve, reject) => {
    const limit = setTimeout(
      () => {
        child.kill();
        reject(new Error(`not ready after ${values['ready-limit']} s:\n${log}`));
      },
      Number(values['ready-limit']) * 1000,
    );
    const read = (data: Buffer): void => {
      log += data.toString();
      const found = /at (http:\S+)\/v1/.exec(log);
      if (found !== null) resolve(found[1]!);
      if (found !== null) clearTimeout(limit);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.once('exit', (status) => {
      clearTimeout(limit);
      reject(new Error(`the server ended with ${status}:\n${log}`));
    });
  });
  const stop = async (): Promise<void> => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.exitCode === null && child.kill('SIGTERM')) await ended;
  };
  return { url, readySeconds: (performance.now() - began) / 1000, log: () => log, stop };
}

interface ModelLimits {
  id: string;
  maxModelLen: number;
  vocabSize: number;
}

function randomPrompt(length: number, vocabSize: number): number[] {
  return Array.from({ length }, () => 3 + Math.floor(Math.random() * (vocabSize - 3)));
}

interface StreamTimes {
  firstMs: number;
  /** Between two arrivals of text. */
  gapsMs: number[];
  tokens: number;
  totalMs: number;
}

/** Greedy completion of a prompt, streamed; every chunk counts as one arrival. */
async function complete(client: OpenAI, model: string, prompt: number[], maxTokens: number): Promise<StreamTimes> {
  const began = performance.now();
  const stream = await client.completions.create({
    model,
    prompt,
    max_tokens: maxTokens,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    ...({ ignore_eos: true } as object),
  });
  let last = 0;
  const times: StreamTimes = { firstMs: 0, gapsMs: [], tokens: 0, totalMs: 0 };
  for await (const chunk of stream) {
    const now = performance.now();
    if (chunk.usage) times.tokens = chunk.usage.completion_tokens;
    if (chunk.choices.length === 0) continue;
    if (last === 0) times.firstMs = now - began;
    else times.gapsMs.push(now - last);
    last = now;
  }
  times.totalMs = last - began;
  return times;
}

async function chat(client: OpenAI, model: string): Promise<string> {
  const answer = await client.chat.completions.create({
    model,
    messages: [{ role: 'user', content: 'What is 12 + 30?' }],
    max_tokens: 16,
    temperature: 0,
  });
  return `${answer.choices[0]?.finish_reason}, ${answer.usage?.completion_tokens} tokens`;
}

async function measurePrefill(client: OpenAI, limits: ModelLimits): Promise<object[]> {
  const rows: object[] = [];
  for (const size of numbers(values.sizes)) {
    if (size + 2 > limits.maxModelLen) {
      say(`prefill ${size}: longer than the context of ${limits.maxModelLen}, not run`);
      continue;
    }
    const firsts: number[] = [];
    for (let run = 0; run < runs; ++run) {
      firsts.push((await complete(client, limits.id, randomPrompt(size, limits.vocabSize), 1)).firstMs);
    }
    const ms = distribution(firsts, []).median;
    say(`prefill ${size}: ${ms.toFixed(1)} ms to the first token, ${((size / ms) * 1000).toFixed(0)} tok/s`);
    rows.push({ size, firstTokenMs: ms, tokensPerSecond: (size / ms) * 1000, runs: firsts });
  }
  return rows;
}

async function measureDecode(client: OpenAI, limits: ModelLimits): Promise<object[]> {
  const rows: object[] = [];
  for (const streams of numbers(values.streams)) {
    const rates: number[] = [];
    const gaps: number[] = [];
    for (let run = 0; run < runs; ++run) {
      const all = await Promise.all(
        Array.from({ length: streams }, () =>
          complete(client, limits.id, randomPrompt(Number(values.context), limits.vocabSize), Number(values.tokens)),
        ),
      );
      // Each stream's own rate after its first token.
      rates.push(all.reduce((sum, { tokens, totalMs, firstMs }) => sum + ((tokens - 1) / (totalMs - firstMs)) * 1000, 0));
      gaps.push(...all.flatMap(({ gapsMs }) => gapsMs));
    }
    const { median, percentiles } = distribution(gaps, [99]);
    const tokensPerSecond = distribution(rates, []).median;
    const row = { streams, tokensPerSecond, gapMedianMs: median, gapP99Ms: percentiles[99]! };
    say(
      `decode ${streams} streams: ${row.tokensPerSecond.toFixed(1)} tok/s, ` +
        `gap ${row.gapMedianMs.toFixed(1)} ms (p99 ${row.gapP99Ms.toFixed(1)})`,
    );
    rows.push({ ...row, runs: rates });
  }
  return rows;
}

/** Chats that decode while as many long prompts arrive at once: the longest wait of any chat for its next text. */
async function measureMixed(client: OpenAI, limits: ModelLimits): Promise<object | undefined> {
  const [prompts, size, chats] = [8, 8192, 8];
  if (size + 2 > limits.maxModelLen) return undefined;
  const decoding = Array.from({ length: chats }, () => complete(client, limits.id, randomPrompt(256, limits.vocabSize), 400));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const began = performance.now();
  const long = await Promise.all(
    Array.from({ length: prompts }, () => complete(client, limits.id, randomPrompt(size, limits.vocabSize), 1)),
  );
  const seconds = (performance.now() - began) / 1000;
  const gaps = (await Promise.all(decoding)).flatMap(({ gapsMs }) => gapsMs);
  const worst = Math.max(...gaps);
  const firsts = long.map(({ firstMs }) => firstMs);
  say(
    `${prompts} prompts of ${size} beside ${chats} chats: longest gap ${worst.toFixed(0)} ms, ` +
      `prompts done in ${seconds.toFixed(1)} s`,
  );
  return { longestGapMs: worst, gapP99Ms: distribution(gaps, [99]).percentiles[99], seconds, firstTokenMs: firsts };
}

async function readLimits(server: Server, client: OpenAI): Promise<ModelLimits> {
  const [model] = (await client.models.list()).data as (OpenAI.Model & { max_model_len?: number })[];
  const info = (await (await fetch(`${server.url}/server_info`)).json()) as { model?: { vocabSize?: number } };
  return { id: model!.id, maxModelLen: model?.max_model_len ?? 0, vocabSize: info.model?.vocabSize ?? 1000 };
}

/** Lines that would betray work which belongs before serving. */
const tuningLines = (log: string): string[] => log.split('\n').filter((line) => /tun(e|ing)|jit|compil/i.test(line));

const server = await start(positionals);
try {
  say(`ready after ${server.readySeconds.toFixed(1)} s`);
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', timeout: 600_000, maxRetries: 0 });
  const limits = await readLimits(server, client);
  say(`context ${limits.maxModelLen}, vocabulary ${limits.vocabSize}`);
  say(`chat: ${await chat(client, limits.id)}`);
  const prefill = await measurePrefill(client, limits);
  const decode = await measureDecode(client, limits);
  const mixed = await measureMixed(client, limits);
  const tuning = tuningLines(server.log());
  say(`lines of the log about tuning or compiling: ${tuning.length}`);
  const report = { readySeconds: server.readySeconds, options: positionals, limits, prefill, decode, mixed, tuning };
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
} finally {
  await server.stop();
}
