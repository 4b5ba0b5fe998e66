// SPDX-License-Identifier: MIT
// What both completion endpoints translate alike: sampling, stopping, refusals of what is not served.

import type { GenerationRequest, ModelInfo, SamplingOptions, StopOptions } from '../../engine/index.ts';
import type { Config } from '../config.ts';
import { invalid, unsupported } from '../errors.ts';
import { unsupportedFields } from '../schemas/common.ts';
import type { ChatCompletionBody } from '../schemas/chat-completions.ts';
import type { CompletionBody } from '../schemas/completions.ts';

type Body = ChatCompletionBody | CompletionBody;

type FieldRules = Readonly<Record<string, { message: string; harmless?: (value: unknown) => boolean }>>;

/** @throws HttpError unsupported_parameter for a known field that is not served. */
export function refuseUnsupported(value: unknown, rules: FieldRules = unsupportedFields): void {
  for (const [field, given] of Object.entries(value as Record<string, unknown>)) {
    const rule = Object.hasOwn(rules, field) ? rules[field] : undefined;
    if (rule === undefined || given === null || rule.harmless?.(given) === true) continue;
    // best_of equal to n asks for nothing special.
    if (field === 'best_of' && given === ((value as { n?: unknown }).n ?? 1)) continue;
    throw unsupported(field, rule.message);
  }
}

export function samplingOf(body: Body, info: ModelInfo): SamplingOptions {
  return {
    temperature: body.temperature ?? info.generationDefaults.temperature,
    topP: body.top_p ?? info.generationDefaults.topP,
    topK: Math.max(0, body.top_k ?? 0),
    minP: body.min_p ?? 0,
    repetitionPenalty: body.repetition_penalty ?? 1,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    ...(body.seed !== undefined && { seed: BigInt.asUintN(64, BigInt(body.seed)) }),
    ...(body.logit_bias !== undefined && { logitBias: logitBias(body.logit_bias, info.vocabSize) }),
    ...(body.allowed_token_ids !== undefined && {
      allowedTokens: checkedTokens(body.allowed_token_ids, 'allowed_token_ids', info),
    }),
  };
}

function logitBias(bias: Record<string, number>, vocabSize: number): Map<number, number> {
  return new Map(
    Object.entries(bias).map(([key, value]) => {
      const token = Number(key);
      if (token >= vocabSize) throw invalid(`logit_bias.${key}: the vocabulary has ${vocabSize} tokens`, `logit_bias.${key}`);
      return [token, value];
    }),
  );
}

/** @throws HttpError naming the first id outside the vocabulary. */
export function checkedTokens(tokens: readonly number[], param: string, info: ModelInfo): readonly number[] {
  const at = tokens.findIndex((token) => token >= info.vocabSize);
  if (at >= 0)
    throw invalid(`${param}[${at}]: the vocabulary has ${info.vocabSize} tokens, got ${tokens[at]}`, `${param}[${at}]`);
  return tokens;
}

export function stopOf(body: Body, info: ModelInfo): StopOptions {
  return {
    strings: body.stop === undefined ? [] : [body.stop].flat(),
    tokens: [...checkedTokens(body.stop_token_ids ?? [], 'stop_token_ids', info)],
    includeInOutput: body.include_stop_str_in_output ?? false,
    ignoreEos: body.ignore_eos ?? false,
    minTokens: body.min_tokens ?? 0,
  };
}

/** Scheduling and cache fields that are passed on as they are. */
export function placementOf(
  body: Pick<Body, 'priority' | 'cache_salt' | 'user_id'>,
): Pick<GenerationRequest, 'priority' | 'cacheSalt'> {
  const cacheSalt = body.cache_salt ?? body.user_id;
  return { ...(body.priority !== undefined && { priority: body.priority }), ...(cacheSalt !== undefined && { cacheSalt }) };
}

export interface StreamOptions {
  includeUsage: boolean;
  continuousUsage: boolean;
  timings: boolean;
  progress?: { elapsedMs: () => number };
}

/**
 * What is told beside the text.
 * @param elapsedMs time since the request came in
 * @throws HttpError when options of a stream are given without one.
 */
export function streamOptionsOf(body: Body, { forceIncludeUsage }: Config, elapsedMs: () => number): StreamOptions {
  const options = body.stream_options;
  if (body.return_progress === true && body.stream !== true) {
    throw invalid('return_progress is only allowed with stream: true', 'return_progress');
  }
  if (options !== undefined && body.stream !== true) {
    throw invalid('stream_options is only allowed with stream: true', 'stream_options');
  }
  const continuousUsage = options?.continuous_usage_stats ?? false;
  return {
    includeUsage: forceIncludeUsage || (options?.include_usage ?? false),
    continuousUsage,
    timings: body.return_timings ?? false,
    ...(body.return_progress === true && { progress: { elapsedMs: () => Math.round(elapsedMs()) } }),
  };
}
