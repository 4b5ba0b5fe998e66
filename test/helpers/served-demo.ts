// SPDX-License-Identifier: MIT
// The real server with the real demo checkpoint, as a process of its own.

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface ServedDemo {
  /** http://127.0.0.1:port */
  url: string;
  process: ChildProcess;
  /** Milliseconds from the start of the process to its line that it is ready. */
  readyMs: number;
  /** Exit status, once it has ended. */
  ended: Promise<number | null>;
  /** What it has printed so far. */
  output: () => string;
  /** Ends it; a server that a test has ended already is left alone. */
  stop(): Promise<void>;
}

const startLimitMs = 30_000;

/** Starts `twelvex serve` on a free port and resolves when it says that it serves. */
export async function serveDemo(options: readonly string[] = []): Promise<ServedDemo> {
  const main = fileURLToPath(new URL('../../server/main.js', import.meta.url));
  const started = performance.now();
  const child = spawn(process.execPath, [main, 'serve', '--port', '0', '--log-level', 'warn', ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let printed = '';
  const ended = new Promise<number | null>((resolve) => child.once('exit', (status) => resolve(status)));
  const url = await new Promise<string>((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error(`not ready after ${startLimitMs} ms:\n${printed}`)), startLimitMs);
    const read = (data: Buffer): void => {
      printed += data.toString();
      const found = /at (http:\S+)\/v1/.exec(printed);
      if (found === null) return;
      clearTimeout(limit);
      resolve(found[1]!);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    void ended.then((status) => {
      clearTimeout(limit);
      reject(new Error(`ended with ${status}:\n${printed}`));
    });
  });
  const readyMs = performance.now() - started;
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
    await ended;
  };
  return { url, process: child, readyMs, ended, output: () => printed, stop };
}
