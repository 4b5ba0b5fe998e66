// SPDX-License-Identifier: MIT
// From the body of a completion to one engine input for each of its prompts.

import type { ModelInfo, PromptInput } from '../../engine/index.ts';
import { invalid, unsupported } from '../errors.ts';
import { limits } from '../schemas/common.ts';
import type { CompletionBody } from '../schemas/completions.ts';
import { checkedTokens } from './generation-request.ts';

/** @throws HttpError for ids outside the vocabulary, more choices than one request may have, or max_tokens 0 without echo. */
export function promptInputs(body: CompletionBody, info: ModelInfo): PromptInput[] {
  const { prompt } = body;
  if (body.max_tokens === 0 && body.echo !== true) {
    throw invalid('max_tokens 0 is only allowed with echo: true', 'max_tokens');
  }
  if (body.suffix && body.echo === true) throw unsupported('echo', 'echo is not supported together with suffix');
  const prompts =
    typeof prompt === 'string' || typeof prompt[0] === 'number'
      ? [prompt as string | number[]]
      : (prompt as string[] | number[][]);
  if (prompts.length * (body.n ?? 1) > limits.prompts) {
    throw invalid(`prompts times n may be at most ${limits.prompts}`, 'prompt');
  }
  return prompts.map((one, index) => {
    if (typeof one === 'string') {
      return body.suffix === undefined || body.suffix === ''
        ? { kind: 'text', text: one }
        : { kind: 'fim', prefix: one, suffix: body.suffix };
    }
    const param = prompts.length === 1 && one === prompt ? 'prompt' : `prompt[${index}]`;
    if (body.suffix) throw unsupported('suffix', 'suffix needs a prompt given as text, not as token ids');
    return { kind: 'tokens', tokens: Int32Array.from(checkedTokens(one, param, info)) };
  });
}
