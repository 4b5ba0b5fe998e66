// SPDX-License-Identifier: MIT
// GET /v1/models and GET /v1/models/{id}

import type { FastifyInstance } from 'fastify';
import type { ModelInfo } from '../../engine/index.ts';
import { listedModels, requestedModel } from '../model-names.ts';
import type { RouteContext } from './context.ts';

/** Sampling and answer parameters that the completion endpoints honour. */
const supportedParameters = [
  ...['max_tokens', 'temperature', 'top_p', 'top_k', 'min_p', 'seed', 'stop', 'logit_bias', 'logprobs', 'top_logprobs'],
  ...[
    'presence_penalty',
    'frequency_penalty',
    'repetition_penalty',
    'tools',
    'tool_choice',
    'reasoning_effort',
    'include_reasoning',
  ],
];

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
