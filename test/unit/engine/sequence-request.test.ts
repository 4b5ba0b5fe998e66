// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { EngineError } from '../../../engine/errors.ts';
import { GREEDY } from '../../../engine/greedy-request.ts';
import type { PreparedPrompt } from '../../../engine/prompts.ts';
import { checkRequest, sequenceRequests } from '../../../engine/sequence-request.ts';
import type { SequenceSampling } from '../../../engine/scheduler/sequence.ts';
import type { GenerationRequest, SamplingOptions } from '../../../engine/types.ts';

const limits = { vocabSize: 100, maxModelLen: 64, eosToken: 1, thinkCloseToken: 2 };

function requestOf(sampling: Partial<SamplingOptions>): GenerationRequest {
  return {
    id: 'r',
    input: { kind: 'tokens', tokens: Int32Array.of(3) },
    sampling: { ...GREEDY, temperature: 1, ...sampling },
    stop: { strings: [], tokens: [], includeInOutput: false, ignoreEos: false, minTokens: 0 },
    n: 1,
    logprobs: -1,
    promptLogprobs: -1,
  };
}

/** What the scheduler gets for these options. */
function planned(sampling: Partial<SamplingOptions>): SequenceSampling {
  const request = requestOf(sampling);
  checkRequest(request, limits);
  const prompt = { tokens: Int32Array.of(3) } as unknown as PreparedPrompt;
  return sequenceRequests(request, prompt, limits, { salt: '', matchers: [] })(0).sampling;
}

describe('sampling options', () => {
  const within: [Partial<SamplingOptions>, (sampling: SequenceSampling) => boolean][] = [
    [{ topP: 0 }, ({ topP }) => Math.fround(topP) > 0 && topP < 1e-3],
    [{ topP: 1e-300 }, ({ topP }) => Math.fround(topP) > 0 && topP < 1e-3],
    [{ minP: 1 }, ({ minP }) => Math.fround(minP) < 1 && minP > 0.999],
    [{ minP: 0.999999999999 }, ({ minP }) => Math.fround(minP) < 1 && minP > 0.999],
    [{ topK: 2 ** 31 - 1 }, ({ topK }) => topK === limits.vocabSize],
    [{ temperature: 1e-40 }, ({ temperature }) => temperature === 0],
  ];
  for (const [given, fits] of within) {
    test(`${JSON.stringify(given)} becomes what single precision can hold`, () => {
      const sampling = planned(given);
      assert.ok(fits(sampling), JSON.stringify({ ...sampling, seed: 0, bias: 0 }));
    });
  }

  const outside: [string, Partial<SamplingOptions>][] = [
    ['temperature', { temperature: -1 }],
    ['temperature', { temperature: 1e39 }],
    ['top_p', { topP: -0.1 }],
    ['top_p', { topP: 1.1 }],
    ['min_p', { minP: -1e-9 }],
    ['top_k', { topK: 1.5 }],
    ['repetition_penalty', { repetitionPenalty: 0 }],
    ['repetition_penalty', { repetitionPenalty: 1e-40 }],
    ['presence_penalty', { presencePenalty: 1e39 }],
    ['frequency_penalty', { frequencyPenalty: Number.NaN }],
  ];
  for (const [param, given] of outside) {
    test(`${param} ${Object.values(given).join()} is refused by name`, () => {
      assert.throws(
        () => checkRequest(requestOf(given), limits),
        (error) => error instanceof EngineError && error.code === 'INVALID_REQUEST' && error.details.param === param,
      );
    });
  }
});
