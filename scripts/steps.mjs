// SPDX-License-Identifier: MIT
// Runs the steps of a set-up one after the other and shows what each does and how long it takes.

import { spawn } from 'node:child_process';

/** A failure that is explained by its message alone; no stack trace is shown. */
export class SetupError extends Error {}

const heartbeatMs = 15_000;
const interactive = process.stdout.isTTY === true;

/** Prints `title`, runs `work` and prints the time it took. `work` gets a function that shows a line of progress. */
export async function step(title, work) {
  const started = Date.now();
  let line = '';
  const elapsed = () => `${((Date.now() - started) / 1000).toFixed(1)} s`;
  console.log(`• ${title}`);
  const show = (text) => {
    line = text.trim();
    if (interactive && line !== '') process.stdout.write(`\r\x1b[K  ${line.slice(0, (process.stdout.columns ?? 80) - 4)}`);
  };
  const heartbeat = setInterval(() => console.log(`  … ${elapsed()} ${line}`), heartbeatMs);
  if (interactive) clearInterval(heartbeat);
  try {
    const value = await work(show);
    if (interactive) process.stdout.write('\r\x1b[K');
    console.log(`  done in ${elapsed()}`);
    return value;
  } catch (error) {
    if (interactive) process.stdout.write('\r\x1b[K');
    console.log(`✗ ${title} failed after ${elapsed()}`);
    throw error;
  } finally {
    clearInterval(heartbeat);
  }
}

/**
 * Runs a program and shows its last line while it works; its whole output appears only when it fails.
 * @throws SetupError with the output.
 */
export function run(command, args, { cwd, env, show = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const collect = (chunk) => {
      output += chunk;
      show(String(chunk).trimEnd().split('\n').at(-1) ?? '');
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', (error) => reject(new SetupError(`cannot run ${command}: ${error.message}`)));
    child.on('close', (code, signal) => {
      if (code === 0) resolve(output);
      else reject(new SetupError(`${output.trimEnd()}\n${command} ${args.join(' ')}: ${signal ?? `exit status ${code}`}`));
    });
  });
}

/** Runs a program with the terminal handed to it; resolves to its exit status. */
export function runVisibly(command, args, { cwd, env } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: 'inherit' });
    child.on('error', (error) => reject(new SetupError(`cannot run ${command}: ${error.message}`)));
    child.on('close', (code) => resolve(code ?? 1));
  });
}
