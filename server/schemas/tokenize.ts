// SPDX-License-Identifier: MIT
// Bodies of POST /tokenize and POST /detokenize.

import { z } from 'zod';
import { boolean, optional, string, tokenIds } from './common.ts';
import { ChatCompletionBody } from './chat-completions.ts';

const shared = { model: optional(string()), return_token_strs: optional(boolean()) };

export const TokenizeTextBody = z.object({ ...shared, prompt: string() });

export const TokenizeChatBody = ChatCompletionBody.extend(shared);

export const DetokenizeBody = z.object({
  model: optional(string()),
  tokens: tokenIds,
});
