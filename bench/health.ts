// SPDX-License-Identifier: MIT
// How long /health takes while prompts of 4 MB are read, rendered and tokenised: what blocks the event loop shows here.
// The demo checkpoint is served by a process of its own; its context is short, so every prompt is refused once it is
// tokenised and nothing is computed. Ids are turned into text, too.
//
//   node dist/bench/health.js [--megabytes 4] [--repeat 5]

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Agent, request } from 'undici';
import { bigPrompts } from './big-prompts.ts';

/** What the project holds itself to. Probes of orchestrators give up after a second. */
const mostMs = 50;

const main = fileURLToPath(new URL('../server/main.js', import.meta.url));
const agent = new Agent({ connections: 4, headersTimeout: 0 });

/** Times of health checks while `body` is under way. */
async function probe(url: string, path: string, body: Buffer): Promise<number[]> {
  const headers = { 'content-type': 'application/json' };
  let done = false;
  const asked = request(`${url}${path}`, { method: 'POST', dispatcher: agent, headers, body }).then(async (response) => {
    const text = await response.body.text();
    const answered = response.statusCode === 200 || (response.statusCode === 400 && text.includes('token'));
    if (!answered) throw new Error(`${path}: ${text.slice(0, 200)}`);
    done = true;
  });
  const times: number[] = [];
  while (!done) {
    const started = performance.now();
    await (await request(`${url}/health`, { dispatcher: agent })).body.text();
    times.push(performance.now() - started);
    await Promise.race([sleep(1), asked]);
  }
  await asked;
  return times;
}

async function measure(bytes: number, repeat: number): Promise<void> {
  // Nothing is computed: a GPU would only lose its memory to the cache.
  const options = ['--port', '0', '--log-level', 'error', '--device', 'cpu'];
  const server = fork(main, ['serve', ...options], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
  const [line] = (await once(server.stdout!, 'data')) as [Buffer];
  const url = /http:\/\/\S+(?=\/v1)/.exec(line.toString())?.[0];
  if (url === undefined) throw new Error(`the server said ${line.toString()}`);
  let longest = 0;
  for (const { name, path, body } of bigPrompts(bytes)) {
    const data = Buffer.from(JSON.stringify(body));
    const times: number[] = [];
    for (let i = 0; i < repeat; i++) times.push(...(await probe(url, path, data)));
    times.sort((a, b) => a - b);
    const within = (share: number): string => times[Math.floor((times.length - 1) * share)]!.toFixed(1);
    longest = Math.max(longest, times.at(-1)!);
    const figures = `half within ${within(0.5)} ms, 99 % within ${within(0.99)} ms, all within ${within(1)} ms`;
    console.log(
      `${name.padEnd(34)} ${(data.length / 1e6).toFixed(1)} MB, ${String(times.length).padStart(5)} probes: ${figures}`,
    );
  }
  if (longest > mostMs) process.exitCode = 1;
  console.log(`longest: ${longest.toFixed(1)} ms (limit ${mostMs} ms)`);
  server.kill('SIGTERM');
  await Promise.all([once(server, 'exit'), agent.close()]);
}

const options = { megabytes: { type: 'string', default: '4' }, repeat: { type: 'string', default: '5' } } as const;
const { values } = parseArgs({ options });
await measure(Number(values.megabytes) * 1e6, Number(values.repeat));
