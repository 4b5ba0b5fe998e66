// SPDX-License-Identifier: MIT
// twelvex inspect DIR: what a checkpoint holds, what its caches cost and what context fits into given memory.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { blocksFor, inspectCheckpoint, planCache } from '../../engine/index.ts';
import type { CheckpointReport } from '../../engine/index.ts';
import { ConfigError, loadConfig } from '../config.ts';
import { deviceDefaults } from '../engine-options.ts';
import { bytes, formatBytes } from '../option-types.ts';
import { parseArguments } from './arguments.ts';
import { formatTable } from './table.ts';

export const inspectHelp = (): string => `twelvex inspect DIR [--memory SIZE] [--tp N] [--json]

Shows configuration, tensors and parameters by kind, bytes, cache bytes for each token, and which context fits.
Reads headers only, so it answers at once for checkpoints of any size.

  --memory SIZE   memory of each device, e.g. 96GB; adds the table of what fits
  --tp N          tensor-parallel ranks the weights are spread over (default: 1)
  --json          everything as JSON`;

/** Tokens of one block of either kind. */
const blockTokens = 128;
/** Blocks of the window that a sequence holds: the one being filled, and the one that the window reaches back into. */
const windowBlocksHeld = 2;
/** Step budget and drafts that the table of what fits leaves room for. */
const { stepTokens } = deviceDefaults.cuda;
const drafts = 2;
const mostSequences = 4096;

/** Share of a device's memory that weights and caches may take; the rest is work space of a step. */
const usableShare = 0.92;

const contexts = [8192, 32_768, 131_072, 262_144, 524_288, 1_048_576];

type CacheRow = CheckpointReport['cache'][number];

/** @throws ConfigError or EngineError BAD_CHECKPOINT naming the file at fault. */
export async function inspect(args: readonly string[]): Promise<number> {
  const json = args.includes('--json');
  const parsed = parseArguments(
    args.filter((arg) => arg !== '--json'),
    { flags: ['memory'], operands: 1 },
  );
  const [directory] = parsed.operands;
  if (parsed.help || directory === undefined) {
    console.log(inspectHelp());
    return parsed.help ? 0 : 2;
  }
  if (!existsSync(join(directory, 'config.json')))
    throw new ConfigError(`${directory} has no config.json; give the directory of a checkpoint`);
  const report = inspectCheckpoint(directory);
  if (json) {
    console.log(JSON.stringify(report, undefined, 2));
    return 0;
  }
  const { tp } = loadConfig(parsed);
  const sections = [configuration(report, directory), tensors(report), caches(report)];
  if (parsed.own['memory'] !== undefined) sections.push(fitting(report, memorySize(parsed.own['memory']), tp));
  console.log(sections.join('\n\n'));
  return 0;
}

function memorySize(text: string): number {
  const parsed = bytes(1).safeParse(text);
  if (!parsed.success) throw new ConfigError(`--memory: expected a size such as 96GB, got ${JSON.stringify(text)}`);
  return parsed.data;
}

function configuration({ config }: CheckpointReport, directory: string): string {
  const count = (kind: string): number => config.layers.filter((layer) => layer === kind).length;
  const architectures = (JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as { architectures?: string[] })
    .architectures;
  const rows = [
    ['architecture', architectures?.join(', ') ?? 'unknown'],
    ['layers', `${config.numLayers} (${count('swa')} sliding window, ${count('csa')} CSA, ${count('hca')} HCA)`],
    ['MTP layers', String(config.numMtpLayers)],
    ['hidden size', String(config.hiddenSize)],
    ['query heads', String(config.numHeads)],
    ['experts', `${config.numExperts}, ${config.expertsPerToken} for each token`],
    ['indexer top-k', String(config.indexTopk)],
    ['vocabulary', config.vocabSize.toLocaleString('en')],
    ['longest context', `${config.maxContext.toLocaleString('en')} tokens`],
  ];
  return `Configuration\n${formatTable(rows)}`;
}

function tensors({ tensors: kinds }: CheckpointReport): string {
  const number = (value: number): string => value.toLocaleString('en');
  const rows = kinds.map(({ kind, dtype, tensors: count, parameters, bytes: size }) => [
    kind,
    dtype,
    number(count),
    number(parameters),
    formatBytes(size),
  ]);
  const sum = (of: (row: CheckpointReport['tensors'][number]) => number): number =>
    kinds.reduce((total, row) => total + of(row), 0);
  const total = [
    'all',
    '',
    number(sum((row) => row.tensors)),
    number(sum((row) => row.parameters)),
    formatBytes(weightBytes(kinds)),
  ];
  const header = ['kind', 'type', 'tensors', 'parameters', 'size'];
  return `Tensors\n${formatTable([header, ...rows, total], { header: true, right: [2, 3, 4] })}`;
}

const weightBytes = (kinds: CheckpointReport['tensors']): number => kinds.reduce((total, row) => total + row.bytes, 0);

/** A token's share of its context block; window blocks and the slot are a fixed cost of the sequence. */
const contextBytesPerToken = (row: CacheRow): number => row.contextBlockBytes / blockTokens;
const fixedBytes = (row: CacheRow): number => row.slotBytes + windowBlocksHeld * row.windowBlockBytes;

/** Each format comes twice: without and with the rows of the MTP block. */
function rowName(cache: readonly CacheRow[], index: number): string {
  const format = cache[index]!.rowFormat;
  return cache[index - 1]?.rowFormat === format ? `${format} with MTP` : format;
}

function caches({ cache }: CheckpointReport): string {
  const rows = cache.map((row, index) => [
    rowName(cache, index),
    formatBytes(contextBytesPerToken(row)),
    formatBytes(fixedBytes(row)),
  ]);
  const header = ['rows', 'each token of context', 'each sequence, fixed'];
  return `Cache\n${formatTable([header, ...rows], { header: true, right: [1, 2] })}`;
}

function fitting(report: CheckpointReport, memory: number, tp: number): string {
  const weights = weightBytes(report.tensors) / tp;
  const free = memory * usableShare - weights;
  const where = tp === 1 ? 'one device' : `each of ${tp} devices`;
  const title = `What fits into ${formatBytes(memory)} on ${where}: weights about ${formatBytes(weights)}`;
  if (free <= 0) return `${title}\nThe weights alone do not fit. More ranks (--tp) share them.`;
  const lengths = contexts.filter((length) => length <= report.config.maxContext);
  const rows = report.cache.map((row, index) => [
    rowName(report.cache, index),
    ...lengths.map((length) => String(sequencesThatFit(row, free, length))),
  ]);
  const header = ['sequences at', ...lengths.map((length) => `${length / 1024}K`)];
  const workPercent = Math.round((1 - usableShare) * 100);
  const note =
    `Caches are held by every rank, with places from which cached prompts are continued; ` +
    `${workPercent} % of the memory is left for the work of a step.`;
  return `${title}\n${formatTable([header, ...rows], { header: true, right: lengths.map((_, index) => index + 1) })}\n${note}`;
}

/** How many sequences of a length the engine's own memory plan has room for. */
function sequencesThatFit(bytes: CacheRow, budgetBytes: number, length: number): number {
  const fits = (slots: number): boolean => {
    try {
      const plan = planCache({ bytes, budgetBytes, slots, stepTokens, mtp: drafts, maxModelLen: length });
      return plan.contextBlocks >= slots * blocksFor(length);
    } catch {
      return false;
    }
  };
  let [least, most] = [0, mostSequences];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (fits(middle)) least = middle;
    else most = middle - 1;
  }
  return least;
}
