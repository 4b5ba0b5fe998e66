// SPDX-License-Identifier: MIT
// POST /tokenize and POST /detokenize, as vLLM has them.

import type { FastifyInstance } from 'fastify';
import type { Engine, PromptInput } from '../../engine/index.ts';
import type { Config } from '../config.ts';
import { requestedModel } from '../model-names.ts';
import { readBody } from '../schemas/parse.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { DetokenizeBody, TokenizeChatBody, TokenizeTextBody } from '../schemas/tokenize.ts';
import { json, jsonNumbers, jsonObject, jsonText, jsonTexts, sendPieces } from '../stream/json-pieces.ts';
import { chatInput } from './chat-request.ts';
import type { RouteContext } from './context.ts';
import { checkedTokens } from './generation-request.ts';

export function tokenizeRoute(app: FastifyInstance, { lifecycle, config }: RouteContext): void {
  app.post('/tokenize', async (request, reply) => {
    const engine = lifecycle.engine();
    const { input, strings } = await tokenizeInput(request.body as JsonBody | undefined, engine, config);
    const tokens = await engine.encode(input);
    const text = (token: number): string => Buffer.from(engine.tokenBytes(token)).toString('utf8');
    const answer = jsonObject({
      count: json(tokens.length),
      max_model_len: json(engine.info.maxModelLen),
      tokens: jsonNumbers(tokens),
      token_strs: strings ? jsonTexts(tokens, text) : json(null),
    });
    return sendPieces(reply, answer);
  });

  app.post('/detokenize', async (request, reply) => {
    const engine = lifecycle.engine();
    const body = await readBody(DetokenizeBody, request.body as JsonBody | undefined);
    requestedModel(body.model, config, engine.info.id);
    const text = await engine.decode(Int32Array.from(checkedTokens(body.tokens, 'tokens', engine.info)));
    return sendPieces(reply, jsonObject({ prompt: jsonText(text) }));
  });
}

/** A plain prompt, or the messages of a chat request rendered as its completion would be. */
async function tokenizeInput(
  source: JsonBody | undefined,
  engine: Engine,
  config: Config,
): Promise<{ input: PromptInput; strings: boolean }> {
  const isChat = (source?.value as { messages?: unknown } | null | undefined)?.messages !== undefined;
  if (!isChat) {
    const body = await readBody(TokenizeTextBody, source);
    requestedModel(body.model, config, engine.info.id);
    return { input: { kind: 'text', text: body.prompt }, strings: body.return_token_strs ?? false };
  }
  const body = await readBody(TokenizeChatBody, source);
  const model = requestedModel(body.model, config, engine.info.id);
  return { input: chatInput(body, source!, { config, info: engine.info, model }), strings: body.return_token_strs ?? false };
}
