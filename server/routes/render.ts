// SPDX-License-Identifier: MIT
// POST /v1/chat/completions/render and POST /v1/completions/render: the prompt as it would be computed, and nothing is.
// Routers that place requests by their prefix ask for the token ids; people read the text.

import type { FastifyInstance } from 'fastify';
import type { Engine, PromptInput } from '../../engine/index.ts';
import { requestedModel } from '../model-names.ts';
import { ChatCompletionBody, unsupportedChatFields } from '../schemas/chat-completions.ts';
import { CompletionBody } from '../schemas/completions.ts';
import { readBody } from '../schemas/parse.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { json, jsonList, jsonNumbers, jsonObject, jsonText, sendPieces } from '../stream/json-pieces.ts';
import type { JsonPieces } from '../stream/json-pieces.ts';
import { chatInput } from './chat-request.ts';
import { promptInputs } from './completion-request.ts';
import type { RouteContext } from './context.ts';
import { refuseUnsupported } from './generation-request.ts';

export function renderRoutes(app: FastifyInstance, { lifecycle, config }: RouteContext): void {
  app.post('/v1/chat/completions/render', async (request, reply) => {
    const engine = lifecycle.engine();
    const source = request.body as JsonBody | undefined;
    const body = await readBody(ChatCompletionBody, source);
    refuseUnsupported(source?.value, unsupportedChatFields);
    const model = requestedModel(body.model, config, engine.info.id);
    const input = chatInput(body, source!, { config, info: engine.info, model });
    // vLLM's answer names features of images here; a text model has none.
    return sendPieces(reply, jsonObject({ ...(await rendered(engine, input)), features: json(null) }));
  });

  app.post('/v1/completions/render', async (request, reply) => {
    const engine = lifecycle.engine();
    const source = request.body as JsonBody | undefined;
    const body = await readBody(CompletionBody, source);
    refuseUnsupported(source?.value);
    requestedModel(body.model, config, engine.info.id);
    const prompts = await Promise.all(promptInputs(body, engine.info).map((input) => rendered(engine, input)));
    return sendPieces(reply, jsonList(prompts.map(jsonObject)));
  });
}

async function rendered(engine: Engine, input: PromptInput): Promise<Record<'token_ids' | 'text', JsonPieces>> {
  return { token_ids: jsonNumbers(await engine.encode(input)), text: jsonText(await engine.render(input)) };
}
