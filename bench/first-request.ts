// SPDX-License-Identifier: MIT
// Whether a server's first request is as fast as its hundredth: starts `twelvex serve` with the options after `--` several times
// and sends each a hundred streamed completions of fresh random tokens, one after another. Fails when the first takes more than
// 1.1 times the median of the others, in the median of the starts.
//
//   node dist/bench/first-request.js [--requests 100] [--starts 3] [--prompt 64] [--tokens 32] -- --model models/demo

import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
  options: {
    requests: { type: 'string', default: '100' },
    starts: { type: 'string', default: '3' },
    prompt: { type: 'string', default: '64' },
    tokens: { type: 'string', default: '32' },
    limit: { type: 'string', default: '1.1' },
  },
  allowPositionals: true,
});

const READY_LIMIT_MS = 600_000;
const promptTokens = Number(values.prompt);
const answerTokens = Number(values.tokens);

interface Timing {
  firstTokenMs: number;
  totalMs: number;
}

/** One streamed completion, read to its end. */
async function complete(url: string, model: string): Promise<Timing> {
  const prompt = Array.from({ length: promptTokens }, () => 10 + Math.floor(Math.random() * 3000));
  const began = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, prompt, max_tokens: answerTokens, temperature: 0, ignore_eos: true, stream: true }),
  });
  if (!response.ok || response.body === null) throw new Error(`${response.status} ${await response.text()}`);
  let firstTokenMs = NaN;
  for await (const _ of response.body) if (Number.isNaN(firstTokenMs)) firstTokenMs = performance.now() - began;
  return { firstTokenMs, totalMs: performance.now() - began };
}

/** The client's own code and sockets must be warm before a server is timed: it talks to a server of its own first. */
async function warmClient(): Promise<void> {
  const echo = createServer((request, response) => {
    request.resume().on('end', () => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let i = 0; i < answerTokens; i++) response.write(`data: {"choices":[{"text":"${i}"}]}\n\n`);
      response.end('data: [DONE]\n\n');
    });
  });
  await new Promise<void>((resolve) => echo.listen(0, '127.0.0.1', resolve));
  const { port } = echo.address() as AddressInfo;
  for (let i = 0; i < 200; i++) await complete(`http://127.0.0.1:${port}`, 'none');
  echo.closeAllConnections();
  echo.close();
}

async function start(): Promise<{ url: string; stop(): Promise<void> }> {
  const main = fileURLToPath(new URL('../server/main.js', import.meta.url));
  const child = spawn(process.execPath, [main, 'serve', '--port', '0', ...positionals], { stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  let log = '';
  const url = await new Promise<string>((resolve, reject) => {
    const give = (): void => reject(new Error(`the server is not ready:\n${log}`));
    const limit = setTimeout(give, READY_LIMIT_MS);
    child.once('exit', give);
    const read = (data: Buffer): void => {
      log += data.toString();
      const found = /at (http:\S+)\/v1/.exec(log);
      if (found === null) return;
      clearTimeout(limit);
      resolve(found[1]!);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
  });
  return {
    url,
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

const median = (list: number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!;
const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** First request over the median of the others, of one fresh server. */
async function measure(): Promise<number> {
  const server = await start();
  try {
    const models = (await (await fetch(`${server.url}/v1/models`)).json()) as { data: { id: string }[] };
    const timings: Timing[] = [];
    for (let i = 0; i < Number(values.requests); i++) timings.push(await complete(server.url, models.data[0]!.id));
    const [first, ...others] = timings;
    const total = median(others.map(({ totalMs }) => totalMs));
    const firstToken = median(others.map(({ firstTokenMs }) => firstTokenMs));
    say(
      `first request ${first!.totalMs.toFixed(1)} ms (first token ${first!.firstTokenMs.toFixed(1)}), median of the next ` +
        `${others.length} ${total.toFixed(1)} ms (${firstToken.toFixed(1)}): ${(first!.totalMs / total).toFixed(3)} times`,
    );
    return first!.totalMs / total;
  } finally {
    await server.stop();
  }
}

await warmClient();
const ratios: number[] = [];
for (let i = 0; i < Number(values.starts); i++) ratios.push(await measure());
const ratio = median(ratios);
say(`median of ${ratios.length} starts: ${ratio.toFixed(3)} times (limit ${values.limit})`);
process.exitCode = ratio <= Number(values.limit) ? 0 : 1;
