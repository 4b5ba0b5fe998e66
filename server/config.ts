// SPDX-License-Identifier: MIT
// Every option there is, in one schema. A flag beats the environment, the environment beats the file given with --config,
// the file beats the default. This is the only reader of the environment.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { bytes, choice, duration, integer, integerList, onOff, origin, text, textList } from './option-types.ts';
import type { OptionMeta } from './option-types.ts';

const option = <T extends z.ZodType>(type: T, meta: OptionMeta): T => type.meta(meta);

/** Root of the installation: the checkout, or what was copied of it into an image. */
const here = fileURLToPath(new URL('.', import.meta.url));
export const installRoot = join(here, here.includes('/dist/') ? '../..' : '..');

const modelOptions = {
  model: option(text.default(join(installRoot, 'models/demo')), {
    group: 'Model',
    about: 'Directory of the checkpoint, or org/name[@revision] on a Hugging Face hub.',
    value: 'DIR',
    defaultText: 'the embedded demo checkpoint',
  }),
  tokenizer: option(text.optional(), {
    group: 'Model',
    about:
      'Folder with a tokenizer.json, or such a file, for a model folder without one. Tokens it does not know read as U+FFFD.',
    value: 'PATH',
    defaultText: 'the one in the model folder',
  }),
  servedModelName: option(textList().default([]), {
    group: 'Model',
    about: 'Names clients may ask for; the first is the one reported. `*` accepts any name.',
    value: 'NAME,…',
    defaultText: 'the name of the directory, and the names of the hosted DeepSeek API',
  }),
  loadFormat: option(choice(['auto', 'dummy']).default('auto'), {
    group: 'Model',
    about: '`dummy` fills weights from a seed: sizes nobody has on disk can be measured.',
    value: 'auto|dummy',
  }),
  dummySeed: option(integer(0, 2 ** 31 - 1).default(0), { group: 'Model', about: 'Seed of dummy weights.', value: 'N' }),
  layers: option(integer(0, 1000).default(0), {
    group: 'Model',
    about: 'Use only the first N layers, with dummy weights.',
    value: 'N',
    defaultText: 'all',
  }),
  encoder: option(choice(['auto', 'preview', '0731']).default('auto'), {
    group: 'Model',
    about: 'Revision of the chat encoding; `auto` reads it off the checkpoint.',
    value: 'auto|preview|0731',
  }),
  thinking: option(onOff.default(true), { group: 'Model', about: 'Think unless the request says otherwise.' }),
  reasoningEffort: option(choice(['low', 'high', 'max']).default('high'), {
    group: 'Model',
    about: 'Effort of thinking when the request names none.',
    value: 'low|high|max',
  }),
  hfHome: option(text.optional(), {
    group: 'Model',
    about: 'Folder of the Hugging Face cache; models are looked up and downloaded in its `hub` folder.',
    value: 'DIR',
    env: 'HF_HOME',
    defaultText: '~/.cache/huggingface',
  }),
  hfEndpoint: option(text.optional(), {
    group: 'Model',
    about: 'Hub to download from.',
    value: 'URL',
    env: 'HF_ENDPOINT',
    defaultText: 'https://huggingface.co',
  }),
  hfToken: option(text.optional(), { group: 'Model', about: 'Token for the hub.', value: 'TOKEN', env: 'HF_TOKEN' }),
};

const engineOptions = {
  device: option(choice(['auto', 'cpu', 'cuda']).default('auto'), {
    group: 'Engine',
    about: 'Backend; `auto` takes the GPU when there is one and the build has CUDA.',
    value: 'auto|cpu|cuda',
  }),
  devices: option(integerList(0, 63).default([]), {
    group: 'Engine',
    about: 'GPU of each rank.',
    value: 'N,…',
    defaultText: '0 to tp - 1',
  }),
  tp: option(integer(1, 8).default(1), { group: 'Engine', about: 'Tensor-parallel ranks.', value: 'N' }),
  threads: option(integer(0, 1024).default(0), {
    group: 'Engine',
    about: 'Threads of the CPU backend.',
    value: 'N',
    defaultText: 'all cores that the process may use',
  }),
  numerics: option(choice(['auto', 'exact', 'served']).default('auto'), {
    group: 'Engine',
    about: '`exact`: no activation quantisation; `served`: FP8 activations as on the GPU.',
    value: 'auto|exact|served',
    defaultText: '`served` on CUDA, `exact` on the CPU',
  }),
  kvCache: option(choice(['auto', 'f32', 'bf16', 'fp8']).default('auto'), {
    group: 'Engine',
    about: 'Format of cache rows.',
    value: 'auto|f32|bf16|fp8',
    defaultText: '`fp8` on CUDA, `f32` on the CPU',
  }),
  mtp: option(integer(-1, 4).default(-1), {
    group: 'Engine',
    about: 'Tokens drafted by the MTP block for each step; 0 turns speculation off.',
    value: 'K',
    defaultText: '2 where the checkpoint has an MTP block',
  }),
  maxModelLen: option(integer(0, 2 ** 24).default(0), {
    group: 'Engine',
    about: 'Longest prompt and answer together, in tokens.',
    value: 'N',
    defaultText: 'what the checkpoint says, bounded by memory',
  }),
  maxSequences: option(integer(0, 4096).default(0), {
    group: 'Engine',
    about: 'Sequences computed at the same time.',
    value: 'N',
    defaultText: '16 on the CPU, 64 on CUDA',
  }),
  stepTokens: option(integer(0, 65_536).default(0), {
    group: 'Engine',
    about: 'Token budget of one step.',
    value: 'N',
    defaultText: '512 on the CPU, 8192 on CUDA',
  }),
  kvMemoryBytes: option(bytes().default(0), {
    group: 'Engine',
    about: 'Memory for the caches, for each rank.',
    value: 'SIZE',
    defaultText: 'for the device',
  }),
  maxItlMs: option(duration().default(100), {
    group: 'Engine',
    about: 'Longest gap between tokens of running answers while prompts are computed.',
    value: 'TIME',
  }),
  prefixCache: option(onOff.default(true), { group: 'Engine', about: 'Reuse the cache of prompts that start alike.' }),
};

const serverOptions = {
  host: option(text.default('127.0.0.1'), {
    group: 'Server',
    about: 'Address to listen on; 0.0.0.0 for all, as in the container image.',
    value: 'ADDRESS',
  }),
  port: option(integer(0, 65_535).default(8000), { group: 'Server', about: 'Port; 0 takes a free one.', value: 'N' }),
  apiKey: option(textList().default([]), {
    group: 'Server',
    about: 'Keys that clients must send, as a bearer token or in x-api-key.',
    value: 'KEY,…',
    defaultText: 'none needed',
  }),
  apiKeyFile: option(text.optional(), {
    group: 'Server',
    about: 'File of more keys, one a line; read again when it changes.',
    value: 'FILE',
  }),
  tlsCert: option(text.optional(), {
    group: 'Server',
    about: 'Certificate chain (PEM) to serve HTTPS with; read again when it changes.',
    value: 'FILE',
  }),
  tlsKey: option(text.optional(), { group: 'Server', about: 'Private key (PEM) of the certificate.', value: 'FILE' }),
  corsOrigin: option(textList(origin).default([]), {
    group: 'Server',
    about: 'Origins whose pages may use the API; `*` for all.',
    value: 'ORIGIN,…',
    defaultText: 'none',
  }),
  logLevel: option(choice(['debug', 'info', 'warn', 'error', 'silent']).default('info'), {
    group: 'Server',
    about: 'Least severe log line to print. Lines are JSON and never hold prompts or answers.',
    value: 'LEVEL',
  }),
  otlpTracesEndpoint: option(z.url({ error: 'expected a URL such as http://127.0.0.1:4318' }).optional(), {
    group: 'Server',
    about: 'OpenTelemetry collector (OTLP over HTTP) that gets a span for each answer, of counts and times only.',
    value: 'URL',
    env: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
    defaultText: 'none',
  }),
  reasoningField: option(choice(['reasoning_content', 'reasoning', 'both']).default('reasoning_content'), {
    group: 'Server',
    about: 'Name of the thinking text in answers.',
    value: 'reasoning_content|reasoning|both',
  }),
  forceIncludeUsage: option(onOff.default(false), {
    group: 'Server',
    about: 'Send usage at the end of every stream, asked for or not.',
  }),
  keepaliveIntervalMs: option(duration(1).default(10_000), {
    group: 'Server',
    about: 'Silence on a stream after which a comment is sent, so that proxies keep it open.',
    value: 'TIME',
  }),
  drainTimeoutMs: option(duration().default(30_000), {
    group: 'Server',
    about: 'How long running answers may go on after SIGTERM.',
    value: 'TIME',
  }),
};

const limitOptions = {
  bodyLimitBytes: option(bytes(1).default(64 * 2 ** 20), { group: 'Limits', about: 'Largest request body.', value: 'SIZE' }),
  maxQueuedRequests: option(integer(0, 1_000_000).default(256), {
    group: 'Limits',
    about: 'Requests that may wait before new ones get 503.',
    value: 'N',
  }),
  maxQueuedTokens: option(integer(0, 2 ** 31 - 1).default(4 * 2 ** 20), {
    group: 'Limits',
    about: 'Prompt tokens that may wait before new requests get 503.',
    value: 'N',
  }),
  maxRequestsPerKey: option(integer(0, 1_000_000).default(0), {
    group: 'Limits',
    about: 'Requests that one API key may have under way before it gets 429.',
    value: 'N',
    defaultText: 'no bound',
  }),
  stallTimeoutMs: option(duration(1).default(60_000), {
    group: 'Limits',
    about: 'How long a client may leave a stream unread before it is cut.',
    value: 'TIME',
  }),
};

export const configSchema = z.strictObject({ ...modelOptions, ...engineOptions, ...serverOptions, ...limitOptions });

/** Frozen; derive a second object where a value has to differ. */
export type Config = Readonly<z.infer<typeof configSchema>>;
export type OptionKey = keyof typeof configSchema.shape;

export const optionKeys = Object.keys(configSchema.shape) as OptionKey[];

export function optionMeta(key: OptionKey): OptionMeta {
  const type = configSchema.shape[key] as z.ZodType;
  return type.meta() as unknown as OptionMeta;
}

/** kvMemoryBytes → kv-memory: units belong to the program's names, not to the flag that takes "4GiB". */
export function flagName(key: OptionKey): string {
  return key.replace(/(Ms|Bytes)$/, '').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

export function environmentName(key: OptionKey): string {
  return optionMeta(key).env ?? `TWELVEX_${flagName(key).replaceAll('-', '_').toUpperCase()}`;
}

/** A list says so in what stands for its value; given twice it grows. */
export const isList = (key: OptionKey): boolean => optionMeta(key).value?.endsWith(',…') === true;

export const isSwitch = (key: OptionKey): boolean => optionMeta(key).value === undefined;

/** A mistake in an option; the message names the flag, variable or file it came from. */
export class ConfigError extends Error {}

type Values = Partial<Record<OptionKey, unknown>>;

/** Options by flag name, as parsed from the command line. */
export interface GivenOptions {
  values: Values;
  /** Path given with --config. */
  file?: string;
}

/**
 * Joins flags, environment and file, and checks every value.
 * @throws ConfigError naming the source of the wrong value.
 */
export function loadConfig(given: GivenOptions, environment: NodeJS.ProcessEnv = process.env): Config {
  const sources: Partial<Record<OptionKey, string>> = {};
  const merged: Values = {};
  const add = (values: Values, source: (key: OptionKey) => string): void => {
    for (const key of Object.keys(values) as OptionKey[]) {
      merged[key] = values[key];
      sources[key] = source(key);
    }
  };
  const file = given.file ?? environment['TWELVEX_CONFIG'];
  if (file !== undefined && file !== '') {
    const named = given.file === undefined ? 'TWELVEX_CONFIG' : '--config';
    add(readConfigFile(file, named), (key) => `${flagName(key)} in ${file}`);
  }
  add(fromEnvironment(environment), environmentName);
  add(given.values, (key) => `--${flagName(key)}`);
  const result = configSchema.safeParse(merged);
  if (result.success) return Object.freeze(result.data);
  const issue = result.error.issues[0];
  const key = issue?.path[0] as OptionKey;
  throw new ConfigError(`${sources[key]}: ${issue?.message}, got ${JSON.stringify(merged[key])}`);
}

function fromEnvironment(environment: NodeJS.ProcessEnv): Values {
  const values: Values = {};
  for (const key of optionKeys) {
    const value = environment[environmentName(key)];
    if (value !== undefined && value !== '') values[key] = value;
  }
  return values;
}

/** @param named what the file was given with */
function readConfigFile(file: string, named: string): Values {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new ConfigError(`${named} ${file}: ${(error as Error).message}`);
  }
  const object = z.record(z.string(), z.unknown()).safeParse(parsed);
  if (!object.success) throw new ConfigError(`${named} ${file}: expected a JSON object of options`);
  const keys = new Map(optionKeys.map((key) => [flagName(key), key]));
  return Object.fromEntries(
    Object.entries(object.data).map(([name, value]) => {
      const key = keys.get(name);
      if (key === undefined) throw new ConfigError(`${named} ${file}: ${unknownOption(name, [...keys.keys()])}`);
      return [key, value];
    }),
  );
}

/** "max-ctx is not an option; did you mean max-model-len?" */
export function unknownOption(name: string, known: string[], prefix = ''): string {
  const nearest = known
    .map((candidate) => ({ candidate, distance: editDistance(name, candidate) }))
    .sort((a, b) => a.distance - b.distance)[0];
  const near = nearest !== undefined && nearest.distance <= Math.max(2, Math.ceil(name.length / 2));
  return `${prefix}${name} is not an option${near ? `; did you mean ${prefix}${nearest.candidate}?` : ''}`;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replaced, previous[j]! + 1, row[j - 1]! + 1));
    }
    previous = row;
  }
  return previous[b.length]!;
}
