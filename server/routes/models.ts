// SPDX-License-Identifier: MIT
// GET /v1/models and GET /v1/models/{id}

import type { FastifyInstance } from 'fastify';
import type { ModelInfo } from '../../engine/index.ts';
import { listedModels, requestedModel } from '../model-names.ts';
import { ChatCompletionBody } from '../schemas/chat-completions.ts';
import type { RouteContext } from './context.ts';

/** Fields of a chat completion that are honoured, beside the conversation itself. */
const supportedParameters = Object.keys(ChatCompletionBody.shape).filter(
  (field) => !['model', 'messages', 'best_of'].includes(field),
);

export function modelsRoute(app: FastifyInstance, { lifecycle, config }: RouteContext): void {
  app.get('/v1/models', () => {
    const { info } = lifecycle.loaded();
    return { object: 'list', data: listedModels(config, info.id).map((name) => modelEntry(name, info)) };
  });

  app.get<{ Params: { '*': string } }>('/v1/models/*', (request) => {
    const { info } = lifecycle.loaded();
    return modelEntry(requestedModel(request.params['*'], config, info.id).name, info);
  });
}

/** OpenAI's fields, with those that vLLM and OpenRouter clients read. */
function modelEntry(id: string, info: ModelInfo): Record<string, unknown> {
  return {
    id,
    object: 'model',
    created: info.created,
    owned_by: 'twelvex',
    root: info.id,
    parent: id === info.id ? null : info.id,
    max_model_len: info.maxModelLen,
    context_length: info.maxModelLen,
    max_completion_tokens: info.maxModelLen,
    supported_parameters: supportedParameters,
  };
}
