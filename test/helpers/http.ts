// SPDX-License-Identifier: MIT
// A server over a scripted engine on a free port of the loopback, and readers for what it answers.

import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import type { TestContext } from 'node:test';
import type { FastifyInstance } from 'fastify';
import type { Engine } from '../../engine/index.ts';
import { buildApp } from '../../server/app.ts';
import { loadConfig } from '../../server/config.ts';
import type { OptionKey } from '../../server/config.ts';
import { Lifecycle } from '../../server/lifecycle.ts';

export interface TestServer {
  app: FastifyInstance;
  lifecycle: Lifecycle;
  /** http://127.0.0.1:port */
  url: string;
  port: number;
}

/** Listens until the test ends. */
export async function testServer(
  t: TestContext,
  engine: Engine | undefined,
  options: Partial<Record<OptionKey, unknown>> = {},
): Promise<TestServer> {
  const lifecycle = new Lifecycle(engine);
  const app = buildApp(lifecycle, loadConfig({ values: options }, {}));
  await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    app.server.closeAllConnections();
    await app.close();
  });
  const { port } = app.server.address() as AddressInfo;
  return { app, lifecycle, url: `http://127.0.0.1:${port}`, port };
}

/** POSTs a value as JSON; text is sent as it is. */
export function post(url: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init,
    headers: { 'content-type': 'application/json', ...init.headers },
  });
}

export interface SseFrame {
  comment?: string;
  data?: string;
}

/** Frames of a whole event stream, in order; anything but data lines and comments fails. */
export function sseFrames(text: string): SseFrame[] {
  return text
    .split('\n\n')
    .filter((frame) => frame !== '')
    .map((frame) => {
      if (frame.startsWith(': ')) return { comment: frame.slice(2) };
      if (frame.startsWith('data: ') && !frame.includes('\n')) return { data: frame.slice('data: '.length) };
      throw new Error(`unexpected frame ${JSON.stringify(frame)}`);
    });
}

/** Parsed chunks of a stream; fails unless [DONE] is its last frame. */
export async function chunksOf<T>(response: Response): Promise<T[]> {
  const data = sseFrames(await response.text()).flatMap((frame) => (frame.data === undefined ? [] : [frame.data]));
  if (data.pop() !== '[DONE]') throw new Error('the stream does not end in [DONE]');
  return data.map((text) => JSON.parse(text) as T);
}

/** Sends raw bytes and resolves to all bytes that come back until the server closes. */
export function rawExchange(port: number, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    let received = '';
    socket.on('data', (data) => (received += data.toString()));
    socket.on('end', () => resolve(received));
    socket.on('error', reject);
  });
}

/** Waits until `condition` holds. */
export async function eventually(condition: () => boolean, what: string, timeoutMs = 3000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`${what} did not happen within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
