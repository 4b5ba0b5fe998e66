// SPDX-License-Identifier: MIT
// Body of POST /v1/completions.

import { z } from 'zod';
import { boolean, generationFields, integerIn, limits, optional, string, tokenIds } from './common.ts';

const tokens = tokenIds.refine((ids) => ids.length > 0, 'must not be empty');
const tooMany = `at most ${limits.prompts} prompts`;

export const CompletionBody = z.object({
  ...generationFields,
  prompt: z.union([
    string(),
    tokens,
    z.array(string(), { error: 'expected an array of strings' }).min(1, 'must not be empty').max(limits.prompts, tooMany),
    z.array(tokens, { error: 'expected an array of token arrays' }).min(1, 'must not be empty').max(limits.prompts, tooMany),
  ]),
  max_tokens: optional(integerIn(0, 2 ** 31 - 1)),
  /** Text behind the hole to fill; the prompt is what stands before it. */
  suffix: optional(string()),
  echo: optional(boolean()),
  logprobs: optional(integerIn(0, 20)),
});

export type CompletionBody = z.infer<typeof CompletionBody>;
