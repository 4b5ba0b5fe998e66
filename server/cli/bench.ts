// SPDX-License-Identifier: MIT
// `twelvex bench`: load on an OpenAI-compatible server, measured and reported in the words of `vllm bench serve`.

import { appendFile, writeFile } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Agent } from 'undici';
import { sendRequest } from './bench/client.ts';
import type { Target } from './bench/client.ts';
import { summarise } from './bench/measure.ts';
import type { Goodput, Sample, Summary } from './bench/measure.ts';
import { renderPlot, renderTable } from './bench/report.ts';
import { planWorkload } from './bench/workload.ts';
import type { PlannedRequest } from './bench/workload.ts';

export const BENCH_HELP = `usage: twelvex bench [options]

Sends a seeded load to an OpenAI-compatible server and reports TTFT, TPOT, ITL, E2EL and throughput.

  --base-url URL              server to measure (http://127.0.0.1:8000)
  --endpoint KIND             completions (exact token counts) or chat (completions)
  --model NAME                model of the requests (the server's first)
  --api-key KEY               sent as a bearer token
  --num-prompts N             requests (100)
  --request-rate R            requests a second; inf sends all at once (inf)
  --burstiness B              1: Poisson arrivals; below 1 burstier, above 1 more even (1)
  --max-concurrency N         requests in flight at most
  --random-input-len N        prompt tokens behind the prefix (512)
  --random-output-len N       tokens of an answer (128)
  --random-range-ratio R      lengths vary evenly within +-R (0)
  --random-prefix-len N       tokens that prompts share (0)
  --num-prefixes N            groups of prompts with a shared prefix (1)
  --temperature T             sampling temperature (0)
  --no-ignore-eos             let answers end early
  --num-warmups N             requests before the measurement (1)
  --metric-percentiles LIST   percentiles to report (90,99)
  --goodput LIST              limits in ms a request must meet, e.g. ttft:500,tpot:50
  --seed N                    seed of prompts and arrivals (0)
  --save-result FILE          everything as JSON, every request included
  --plot FILE                 throughput over time and latency distributions as SVG
  --help                      this text
`;

const OPTIONS = {
  'base-url': { type: 'string', default: 'http://127.0.0.1:8000' },
  endpoint: { type: 'string', default: 'completions' },
  model: { type: 'string' },
  'api-key': { type: 'string' },
  'num-prompts': { type: 'string', default: '100' },
  'request-rate': { type: 'string', default: 'inf' },
  burstiness: { type: 'string', default: '1' },
  'max-concurrency': { type: 'string' },
  'random-input-len': { type: 'string', default: '512' },
  'random-output-len': { type: 'string', default: '128' },
  'random-range-ratio': { type: 'string', default: '0' },
  'random-prefix-len': { type: 'string', default: '0' },
  'num-prefixes': { type: 'string', default: '1' },
  temperature: { type: 'string', default: '0' },
  'ignore-eos': { type: 'boolean', default: true },
  'num-warmups': { type: 'string', default: '1' },
  'metric-percentiles': { type: 'string', default: '90,99' },
  goodput: { type: 'string', default: '' },
  seed: { type: 'string', default: '0' },
  'save-result': { type: 'string' },
  plot: { type: 'string' },
  help: { type: 'boolean', default: false },
} as const;

type Values = ReturnType<typeof readFlags>;
type NumberFlag = { [K in keyof Values]-?: Values[K] extends string ? K : never }[keyof Values];

function readFlags(args: readonly string[]) {
  return parseArgs({ args: [...args], options: OPTIONS, allowNegative: true }).values;
}

/** A mistake in the command line or a server that cannot be measured; the message is for the person. */
export class BenchError extends Error {}

export interface BenchResult {
  summary: Summary;
  samples: Sample[];
}

/**
 * Runs the command. `write` takes the report.
 * @throws BenchError
 */
export async function runBench(args: readonly string[], write: (text: string) => void): Promise<BenchResult | undefined> {
  const values = parse(args);
  if (values.help) {
    write(BENCH_HELP);
    return undefined;
  }
  const number = (flag: NumberFlag, least: number): number => readNumber(flag, values[flag], least);
  const workload = {
    numPrompts: number('num-prompts', 1),
    inputLen: number('random-input-len', 1),
    outputLen: number('random-output-len', 1),
    rangeRatio: number('random-range-ratio', 0),
    prefixLen: number('random-prefix-len', 0),
    prefixes: number('num-prefixes', 1),
    requestRate: values['request-rate'] === 'inf' ? Infinity : number('request-rate', 1e-6),
    burstiness: number('burstiness', 1e-3),
    seed: number('seed', 0),
  };
  const concurrency = values['max-concurrency'];
  const maxConcurrency = concurrency === undefined ? undefined : readNumber('max-concurrency', concurrency, 1);
  const percents = values['metric-percentiles'].split(',').map((text) => readNumber('metric-percentiles', text, 0));
  const goodput = readGoodput(values.goodput);
  const warmups = number('num-warmups', 0);
  for (const file of [values['save-result'], values.plot]) if (file !== undefined) await checkWritable(file);
  const target = await connect(values);
  try {
    const requests = planWorkload(workload, await alphabet(target));
    for (const request of requests.slice(0, warmups)) failOnError(await sendRequest(target, request));
    // A second draw, so that the warm-up's prompts are not cached.
    const measured = warmups > 0 ? planWorkload({ ...workload, seed: workload.seed + 1 }, await alphabet(target)) : requests;
    const { samples, durationMs } = await run(target, measured, maxConcurrency);
    const summary = summarise(samples, durationMs, { percents, goodput });
    write(renderTable(summary, { requestRate: workload.requestRate, maxConcurrency }));
    const failure = samples.find((sample) => !sample.ok);
    if (failure) write(`first failure: ${failure.error ?? 'unknown'}\n`);
    const result = { summary, samples };
    if (values['save-result']) await writeFile(values['save-result'], JSON.stringify({ options: values, ...result }, null, 1));
    if (values.plot) await writeFile(values.plot, renderPlot(samples, `${target.model}: ${workload.numPrompts} requests`));
    return result;
  } finally {
    await target.dispatcher.close();
  }
}

function parse(args: readonly string[]): Values {
  try {
    return readFlags(args);
  } catch (error) {
    throw new BenchError(`${(error as Error).message}; see twelvex bench --help`);
  }
}

/** Before minutes of load, not behind them. */
async function checkWritable(file: string): Promise<void> {
  try {
    await appendFile(file, '');
  } catch (error) {
    throw new BenchError(`cannot write the result: ${(error as Error).message}`);
  }
}

function readNumber(flag: string, text: string, least: number): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= least))
    throw new BenchError(`--${flag} expects a number of at least ${least}, got "${text}"`);
  return value;
}

function readGoodput(text: string): Goodput {
  const limits: Goodput = {};
  for (const part of text.split(',').filter(Boolean)) {
    const [name, value = ''] = part.split(':');
    if (name !== 'ttft' && name !== 'tpot' && name !== 'e2el')
      throw new BenchError(`--goodput knows ttft, tpot and e2el, got "${part}"`);
    limits[name] = readNumber('goodput', value, 0);
  }
  return limits;
}

async function connect(values: Values): Promise<Target> {
  if (values.endpoint !== 'completions' && values.endpoint !== 'chat') {
    throw new BenchError(`--endpoint expects completions or chat, got "${values.endpoint}"`);
  }
  const given = values['base-url'];
  if (!/^https?:\/\//.test(given) || !URL.canParse(given)) {
    throw new BenchError(`--base-url expects a URL such as http://127.0.0.1:8000, got "${given}"`);
  }
  const url = new URL(given);
  const target: Target = {
    dispatcher: new Agent({ connections: null, pipelining: 1 }),
    origin: url.origin,
    base: url.pathname.replace(/\/$/, '').replace(/\/v1$/, ''),
    endpoint: values.endpoint,
    model: values.model ?? '',
    headers: values['api-key'] ? { authorization: `Bearer ${values['api-key']}` } : {},
    extra: { temperature: readNumber('temperature', values.temperature, 0), ignore_eos: values['ignore-eos'] },
    textOf: async (tokens) => (await call<{ prompt: string }>(target, '/detokenize', { tokens })).prompt,
  };
  const { data } = await call<{ data: { id: string }[] }>(target, '/v1/models').catch(async (error: unknown) => {
    await target.dispatcher.close();
    throw error;
  });
  target.model ||= data[0]?.id ?? '';
  return target;
}

async function call<T>(target: Target, path: string, body?: unknown): Promise<T> {
  const response = await target.dispatcher
    .request({
      origin: target.origin,
      path: target.base + path,
      method: body === undefined ? 'GET' : 'POST',
      headers: { 'content-type': 'application/json', ...target.headers },
      body: body === undefined ? null : JSON.stringify(body),
    })
    .catch((error: Error) => {
      throw new BenchError(`no answer from ${target.origin}: ${error.message}; is the server running?`);
    });
  const text = await response.body.text();
  if (response.statusCode !== 200) throw new BenchError(`${path} answered ${response.statusCode}: ${text.slice(0, 200)}`);
  return JSON.parse(text) as T;
}

const SAMPLE_TEXT =
  'There was once a small fox who lived at the edge of a quiet wood. Every morning she walked to the river, counted the boats ' +
  'and asked the old heron for news. One day the heron said: the bridge is gone, and nobody knows who took it.';

/** Ids of ordinary text, drawn from to make prompts of an exact length. */
async function alphabet(target: Target): Promise<number[]> {
  const { tokens } = await call<{ tokens: number[] }>(target, '/tokenize', { prompt: SAMPLE_TEXT, add_special_tokens: false });
  return [...new Set(tokens)];
}

function failOnError(sample: Sample): void {
  if (!sample.ok) throw new BenchError(`the first request failed: ${sample.error ?? 'unknown'}`);
}

async function run(
  target: Target,
  requests: readonly PlannedRequest[],
  maxConcurrency = Infinity,
): Promise<{ samples: Sample[]; durationMs: number }> {
  const start = performance.now();
  const waiting: (() => void)[] = [];
  let open = 0;
  const send = async (request: PlannedRequest): Promise<Sample> => {
    await delay(Math.max(0, request.atMs - (performance.now() - start)));
    while (open >= maxConcurrency) await new Promise<void>((resolve) => waiting.push(resolve));
    open += 1;
    const sample = await sendRequest(target, request);
    open -= 1;
    waiting.shift()?.();
    return sample;
  };
  const samples = await Promise.all(requests.map(send));
  return { samples, durationMs: performance.now() - start };
}
