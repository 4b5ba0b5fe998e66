// SPDX-License-Identifier: MIT
// Parts of bodies that several endpoints share. Clients send null for "not set", so null counts as absent everywhere.

import { z } from 'zod';

/** Field that may be left out or null. */
export const optional = <T extends z.ZodType>(type: T): z.ZodType<z.output<T> | undefined> =>
  z.preprocess((value) => value ?? undefined, type.optional()) as unknown as z.ZodType<z.output<T> | undefined>;

const expected = (what: string): { error: (issue: { code?: string | undefined }) => string | undefined } => ({
  error: (issue) => (issue.code === 'invalid_type' ? `expected ${what}` : undefined),
});

export const string = (): z.ZodString => z.string(expected('a string'));
export const boolean = (): z.ZodBoolean => z.boolean(expected('true or false'));

export const integerIn = (least: number, most: number): z.ZodNumber =>
  z
    .int({ error: `expected a whole number from ${least} to ${most}` })
    .min(least, range(least, most))
    .max(most, range(least, most));

export const numberIn = (least: number, most: number): z.ZodNumber =>
  z
    .number({ error: `expected a number from ${least} to ${most}` })
    .min(least, range(least, most))
    .max(most, range(least, most));

function range(least: number, most: number): string {
  return `expected a number from ${least} to ${most}`;
}

export const limits = {
  stopStrings: 16,
  stopLength: 1024,
  stopTokens: 128,
  logitBias: 1024,
  choices: 16,
  tools: 128,
  /** Messages of a conversation, or items of an input. */
  messages: 16_384,
  prompts: 128,
  /** Parts of a message, calls of a turn. */
  parts: 16_384,
  /** Entries of the metadata of a response. */
  metadata: 16,
};

const stopString = string()
  .min(1, 'a stop string must not be empty')
  .max(limits.stopLength, `longer than ${limits.stopLength} characters`);

type TypedObjects = readonly [z.ZodObject<{ type: z.ZodLiteral<string> }>, ...z.ZodObject<{ type: z.ZodLiteral<string> }>[]];

/**
 * One of some objects told apart by their type, or an object of another type, of which the type alone is kept. An object of a
 * known type with a mistake in it is that mistake.
 */
export const typedOrOther = <const T extends TypedObjects>(
  ...known: T
): z.ZodUnion<[z.ZodDiscriminatedUnion<T, 'type'>, z.ZodObject<{ type: z.ZodString }>]> => {
  const types = known.map(({ shape }) => shape.type.value);
  // Aborting, so that a union does not take it for the nearest.
  const other = z.object({ type: string().refine((type) => !types.includes(type), { abort: true }) });
  return z.union([z.discriminatedUnion('type', known, { error: typeExpected }), other]);
};

const typeExpected = ({ code }: { code?: string | undefined }): string | undefined =>
  code === 'invalid_union' ? 'expected a string' : undefined;

/** Counts the entries of a record before it reads them. */
export const capped = <T extends z.ZodType>(record: T, most: number): z.ZodType<z.output<T>> =>
  z.preprocess((value, { addIssue }) => {
    const count = typeof value === 'object' && value !== null ? Object.keys(value).length : 0;
    if (count <= most) return value;
    addIssue({ code: 'custom', message: `at most ${most} entries` });
    return z.NEVER;
  }, record) as unknown as z.ZodType<z.output<T>>;

export const logitBias = capped(
  z.record(z.string().regex(/^\d+$/, 'expected token ids as keys'), numberIn(-100, 100), expected('an object')),
  limits.logitBias,
);

/** Clients draw seeds from 64 bits, which JavaScript's safe integers do not hold; the nearest number is as good a seed. */
const seed = z
  .number(expected('a whole number'))
  .refine((value) => Number.isInteger(value) && Math.abs(value) <= 2 ** 64, 'expected a whole number of 64 bits');

const mostId = 2 ** 31 - 1;
const tokenId = integerIn(0, mostId);

/**
 * Ids of a text. There may be millions, over which zod's own array takes ten times as long; it is asked about the first that
 * is wrong.
 */
export const tokenIds: z.ZodType<number[]> = z.preprocess(
  (value, { addIssue }) => {
    const at = Array.isArray(value) ? value.findIndex((id) => !isTokenId(id)) : -1;
    if (Array.isArray(value) && at < 0) return value;
    const wrong = Array.isArray(value) ? value.slice(at, at + 1) : value;
    for (const issue of z.array(tokenId, expected('an array of token ids')).safeParse(wrong).error?.issues ?? []) {
      addIssue({ ...issue, path: issue.path.length > 0 ? [at] : [] });
    }
    return z.NEVER;
  },
  z.custom<number[]>().meta({ type: 'array', items: { type: 'integer', minimum: 0, maximum: mostId } }),
);

const isTokenId = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= mostId;

const grammarFields = {
  regex: optional(string().min(1, 'must not be empty')),
  choice: optional(z.array(string(), expected('an array of strings')).min(1, 'must not be empty')),
  grammar: optional(string().min(1, 'must not be empty')),
};

/** What /chat/completions and /completions have in common. */
export const generationFields = {
  model: optional(string()),
  stream: optional(boolean()),
  stream_options: optional(
    z.object(
      { include_usage: optional(boolean()), continuous_usage_stats: optional(boolean()) },
      { error: 'expected an object' },
    ),
  ),
  n: optional(integerIn(1, limits.choices)),
  best_of: optional(integerIn(1, limits.choices)),
  temperature: optional(numberIn(0, 2)),
  top_p: optional(numberIn(0, 1)),
  top_k: optional(integerIn(-1, 2 ** 31 - 1)),
  min_p: optional(numberIn(0, 1)),
  presence_penalty: optional(numberIn(-2, 2)),
  frequency_penalty: optional(numberIn(-2, 2)),
  repetition_penalty: optional(numberIn(0.01, 10)),
  seed: optional(seed),
  stop: optional(
    z.union([
      stopString,
      z.array(stopString, expected('an array of strings')).max(limits.stopStrings, `at most ${limits.stopStrings} stop strings`),
    ]),
  ),
  stop_token_ids: optional(z.array(tokenId, expected('an array')).max(limits.stopTokens, `at most ${limits.stopTokens} ids`)),
  include_stop_str_in_output: optional(boolean()),
  ignore_eos: optional(boolean()),
  min_tokens: optional(integerIn(0, 2 ** 31 - 1)),
  logit_bias: optional(logitBias),
  allowed_token_ids: optional(z.array(tokenId, expected('an array')).max(2 ** 17, 'too many ids')),
  response_format: optional(
    z.object({
      type: string(),
      json_schema: optional(z.object({ strict: optional(boolean()), schema: z.unknown().optional() })),
      schema: z.unknown().optional(),
    }),
  ),
  structured_outputs: optional(
    z.object({
      json: z.unknown().optional(),
      json_object: optional(boolean()),
      ...grammarFields,
      structural_tag: z.unknown().optional(),
    }),
  ),
  guided_json: z.unknown().optional(),
  guided_regex: grammarFields.regex,
  guided_choice: grammarFields.choice,
  guided_grammar: grammarFields.grammar,
  priority: optional(z.int({ error: 'expected a whole number' })),
  cache_salt: optional(string().max(512, 'longer than 512 characters')),
  user_id: optional(string().max(512, 'longer than 512 characters')),
  /** llama.cpp's: times and draft counts with the answer, and how far the prompt is computed in a stream. */
  return_timings: optional(boolean()),
  return_progress: optional(boolean()),
};

const isFalse = (value: unknown): boolean => value === false;
const isEmpty = (value: unknown): boolean => value === '';

/** Fields that are known and not served; naming them beats silence. A value that asks for nothing is let through. */
export const unsupportedFields: Record<string, { message: string; harmless?: (value: unknown) => boolean }> = {
  functions: { message: 'functions is not supported; use tools' },
  function_call: { message: 'function_call is not supported; use tool_choice' },
  modalities: {
    message: 'only text is served',
    harmless: (value) => Array.isArray(value) && value.every((item) => item === 'text'),
  },
  audio: { message: 'only text is served' },
  use_beam_search: { message: 'beam search is not supported', harmless: isFalse },
  best_of: { message: 'best_of is not supported; use n' },
  web_search_options: { message: 'web search is not supported' },
  // What clients of vLLM, SGLang and llama.cpp send: an answer without it would not be what they asked for.
  return_prompt_text: { message: 'return_prompt_text is not supported; see /v1/chat/completions/render', harmless: isFalse },
  truncate_prompt_tokens: { message: 'truncate_prompt_tokens is not supported; shorten the prompt' },
  prompt_logprobs: { message: 'prompt_logprobs is not supported; use echo with logprobs on /v1/completions' },
  return_token_ids: { message: 'return_token_ids is not supported; see /tokenize', harmless: isFalse },
  return_tokens_as_token_ids: { message: 'return_tokens_as_token_ids is not supported', harmless: isFalse },
  thinking_token_budget: { message: 'thinking_token_budget is not supported; use reasoning_effort' },
  chat_template: { message: 'the chat format of the model is fixed; see chat_template_kwargs' },
  length_penalty: { message: 'length_penalty is not supported', harmless: (value) => value === 1 },
  stop_regex: { message: 'stop_regex is not supported; use stop', harmless: isEmpty },
  regex: { message: 'regex is not supported; use structured_outputs.regex', harmless: isEmpty },
  ebnf: { message: 'ebnf is not supported; use structured_outputs.grammar', harmless: isEmpty },
  grammar: { message: 'grammar is not supported; use structured_outputs.grammar', harmless: isEmpty },
  json_schema: { message: 'json_schema is not supported; use response_format', harmless: isEmpty },
  bad_words: {
    message: 'bad_words is not supported; use logit_bias',
    harmless: (value) => Array.isArray(value) && value.length === 0,
  },
};
