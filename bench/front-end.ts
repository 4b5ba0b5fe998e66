// SPDX-License-Identifier: MIT
// What the HTTP side costs: a scripted engine makes 5,000 tokens/s over 64 streams; the server's processor time and the
// delay it adds between a token leaving the engine and reaching a client are measured. All streams get their token in the
// same turn of the event loop, as from a real step, so the last of them waits for the work on all others.
//
// Server and client are processes of their own, and the client is as cheap as can be: bare sockets that read into one
// buffer, stamp what came and look for tokens in it. Two idle cores are needed, or it measures their queue.
//
//   node dist/bench/front-end.js [--streams 64] [--rate 5000] [--seconds 10]
//   node --cpu-prof dist/bench/front-end.js        # writes a profile of each process

import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { buildApp } from '../server/app.ts';
import { loadConfig } from '../server/config.ts';
import { Lifecycle } from '../server/lifecycle.ts';
import { rateEngine } from '../test/helpers/rate-engine.ts';

/** Limits that the project holds itself to: half a core, 2 ms for 99 of 100 tokens. */
const mostCores = 0.5;
const mostDelayMs = 2;

const clock = (): number => performance.timeOrigin + performance.now();

/** By the engine's request ids, when each of their tokens left it; processor seconds and interruptions since the start. */
interface Report {
  handedOut: [id: string, times: number[]][];
  cpuSeconds: number;
  interruptions: number;
}

/** How often other programs took this process's core while it had work to do. */
const interruptions = (): number => process.resourceUsage().involuntaryContextSwitches;

async function serve(stepMs: number, tokens: number): Promise<void> {
  const handedOut = new Map<string, number[]>();
  const onToken = (id: string, _index: number, timeMs: number): void => {
    const times = handedOut.get(id);
    if (times === undefined) handedOut.set(id, [timeMs]);
    else times.push(timeMs);
  };
  const app = buildApp(new Lifecycle(rateEngine({ stepMs, tokens, onToken })), loadConfig({ values: {} }, {}));
  await app.listen({ host: '127.0.0.1', port: 0 });
  let before = process.cpuUsage();
  let interrupted = 0;
  process.on('message', (message) => {
    if (message === 'start') {
      before = process.cpuUsage();
      interrupted = interruptions();
    }
    const { user, system } = process.cpuUsage(before);
    if (message !== 'report') return;
    // It ends, and writes a profile where one was asked for, when its parent hangs up.
    const stamped = [...handedOut].map(([id, times]): [string, number[]] => [
      id,
      times.map((time) => performance.timeOrigin + time),
    ]);
    const report = { handedOut: stamped, cpuSeconds: (user + system) / 1e6, interruptions: interruptions() - interrupted };
    process.send?.(report satisfies Report);
    void app.close();
  });
  process.send?.((app.server.address() as AddressInfo).port);
}

const token = ' token';
const buffer = Buffer.allocUnsafe(1 << 20);

/** Reads one stream of at most `tokens`; resolves to the time at which each token arrived. */
function readStream(port: number, id: string, tokens: number): Promise<number[]> {
  const arrived: number[] = [];
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'x' }], stream: true, max_tokens: tokens });
  const head = ['POST /v1/chat/completions HTTP/1.1', 'host: localhost', 'content-type: application/json'];
  return new Promise((resolve, reject) => {
    const callback = (length: number): boolean => {
      const now = clock();
      const data = buffer.subarray(0, length);
      for (let at = data.indexOf(token, 0, 'latin1'); at >= 0; at = data.indexOf(token, at + 1, 'latin1')) arrived.push(now);
      if (data.includes('[DONE]')) socket.destroy();
      return true;
    };
    const socket = connect({ port, host: '127.0.0.1', onread: { buffer, callback } });
    socket.once('error', reject).once('close', () => resolve(arrived));
    socket.write([...head, `x-request-id: ${id}`, `content-length: ${body.length}`, '', body].join('\r\n'));
  });
}

function percentile(values: number[], share: number): number {
  values.sort((a, b) => a - b);
  return values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Infinity;
}

async function measure(streams: number, rate: number, seconds: number): Promise<void> {
  const stepMs = (streams * 1e3) / rate;
  const tokens = Math.round((seconds * 1e3) / stepMs);
  const child: ChildProcess = fork(fileURLToPath(import.meta.url), ['serve', String(stepMs), String(tokens)]);
  const [port] = (await once(child, 'message')) as [number];
  const ids = Array.from({ length: streams }, (_, index) => `stream-${index}`);
  const readAll = (name: string, most: number): Promise<number[][]> =>
    Promise.all(ids.map((id) => readStream(port, name + id, most)));
  // Both processes compile what they run often; that is over before anything is measured.
  for (let round = 0; round < 4; round++) await readAll(`warm-up-${round}-`, 50);
  child.send('start');
  const started = clock();
  const interruptedBefore = interruptions();
  const arrived = await readAll('', tokens);
  const elapsed = (clock() - started) / 1e3;
  const interrupted = interruptions() - interruptedBefore;
  child.send('report');
  const [report] = (await once(child, 'message')) as [Report];
  child.disconnect();
  // The engine's ids begin with the client's.
  const handedOut = new Map(report.handedOut.map(([id, times]) => [id.split(':')[0], times]));
  const delays: number[] = [];
  const bySecond: number[][] = [];
  for (const [stream, id] of ids.entries()) {
    for (const [index, time] of (handedOut.get(id) ?? []).entries()) {
      const delay = (arrived[stream]?.[index] ?? Infinity) - time;
      delays.push(delay);
      (bySecond[Math.floor((time - started) / 1e3)] ??= []).push(delay);
    }
  }
  // The last second is not whole.
  const quietest = Math.min(...bySecond.slice(0, -1).map((second) => percentile(second, 0.99)));
  const [half, most] = [percentile(delays, 0.5), percentile(delays, 0.99)];
  const cores = report.cpuSeconds / elapsed;
  console.log(`${streams} streams, ${(delays.length / elapsed).toFixed(0)} tokens/s for ${elapsed.toFixed(1)} s`);
  console.log(`server: ${(100 * cores).toFixed(0)} % of a core (limit ${100 * mostCores} %)`);
  console.log(`added to a token: median ${half.toFixed(2)} ms, p99 ${most.toFixed(2)} ms (limit ${mostDelayMs} ms)`);
  console.log(`p99 of the quietest second: ${quietest.toFixed(2)} ms`);
  console.log(`interrupted by other programs: the server ${report.interruptions} times, the client ${interrupted} times`);
  if (cores > mostCores || most > mostDelayMs) process.exitCode = 1;
}

if (process.argv[2] === 'serve') {
  await serve(Number(process.argv[3]), Number(process.argv[4]));
} else {
  const options = {
    streams: { type: 'string', default: '64' },
    rate: { type: 'string', default: '5000' },
    seconds: { type: 'string', default: '10' },
  } as const;
  const { values } = parseArgs({ options });
  await measure(Number(values.streams), Number(values.rate), Number(values.seconds));
}
