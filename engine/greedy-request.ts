// SPDX-License-Identifier: MIT

import type { GenerationRequest, SamplingOptions } from './types.ts';

/** The likeliest token every time: everything that could change that is off. Others are written as what they add to it. */
export const GREEDY: SamplingOptions = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
};

/** Exactly `maxTokens` tokens behind those of the prompt: the end token does not end it. */
export function greedyRequest(id: string, tokens: Int32Array, maxTokens: number): GenerationRequest {
  return {
    id,
    input: { kind: 'tokens', tokens },
    sampling: GREEDY,
    stop: { strings: [], tokens: [], includeInOutput: false, ignoreEos: true, minTokens: 0 },
    maxTokens,
    n: 1,
    logprobs: -1,
    promptLogprobs: -1,
  };
}
