// SPDX-License-Identifier: MIT
// What bench/native/cuda_bench.cc and bench/kernels/prefill_ab.cu wrote: one file of JSON lines a run.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

export interface Line {
  kind: 'run' | 'op' | 'prefill' | 'decode' | 'layer' | 'memory' | 'load' | 'long' | 'kernel';
  [field: string]: unknown;
}

export interface Labels {
  device: string;
  tp: number;
  alone: boolean;
  layers_run: number;
  step_tokens: number;
  mtp: number;
  copy: number;
  attention: string;
  task: string;
}

export interface Operation extends Labels {
  layer: string;
  layers: number;
  whole: number;
  op: string;
  us: number;
  flops: number;
  bytes: number;
}

export interface Prefill extends Labels {
  tokens: number;
  first_ms: number;
  runs_ms: number[];
  ms: number;
  ops_ms: number;
  whole_ms: number;
}

export interface Decode extends Labels {
  streams: number;
  context: number;
  ms: number;
  accepted: number;
  ops_ms: number;
  whole_ms: number;
}

/** One attention layer outside of a model, by the three kernels of bench/kernels/prefill_ab.cu. */
export interface KernelTimes {
  prompt: number;
  layer: string;
  one_head_us: number;
  eight_heads_us: number;
  product_us: number;
  flops: number;
}

export interface Run {
  name: string;
  commit: string;
  command: string;
  lines: Line[];
}

export const WHOLE_LAYERS = 43;

/** Layers by kind, and what lies outside of them, in the order of a page. */
export const LAYERS = ['swa', 'csa', 'hca', 'draft layer', 'ends', 'draft ends'];

export function readRuns(folder: string): Run[] {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.jsonl'))
    .sort()
    .map((file) => {
      const [first, ...lines] = readFileSync(join(folder, file), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Line);
      if (first?.kind !== 'run') throw new Error(`${file}: the first line does not name the run`);
      return { name: String(first['name']), commit: String(first['commit']), command: String(first['command']), lines };
    });
}

export const of = <T>(run: Run, kind: Line['kind']): T[] => run.lines.filter((line) => line.kind === kind) as unknown as T[];

export const all = <T>(runs: readonly Run[], kind: Line['kind']): (T & { run: string })[] =>
  runs.flatMap((run) => of<T>(run, kind).map((line) => ({ ...line, run: run.name })));

/** Operations of the product's own kernels. */
export const productOperations = (run: Run): Operation[] =>
  of<Operation>(run, 'op').filter(({ attention }) => attention === 'product');

export const perSecond = (count: number, ms: number): number => (count / ms) * 1000;

/** What was run, in words. */
export const shape = (l: Labels): string => `${l.layers_run} layers, TP ${l.tp}${l.alone ? ', one rank alone' : ''}`;
