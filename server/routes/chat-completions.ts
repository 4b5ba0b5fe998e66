// SPDX-License-Identifier: MIT
// POST /v1/chat/completions

import type { FastifyInstance } from 'fastify';
import type { ChatInput, GenerationRequest, ModelInfo } from '../../engine/index.ts';
import { invalid } from '../errors.ts';
import { requestedModel } from '../model-names.ts';
import { ChatCompletionBody, unsupportedChatFields } from '../schemas/chat-completions.ts';
import { readBody } from '../schemas/parse.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { ChatAnswer } from '../stream/chat-answer.ts';
import { ChatChunks } from '../stream/chat-chunks.ts';
import { streamAnswer, wholeAnswer } from './answer.ts';
import { chatInput } from './chat-request.ts';
import { answerHeader, engineRequestId, openExchange } from './context.ts';
import type { RouteContext } from './context.ts';
import { grammarOf } from './grammar-request.ts';
import type { Grammar } from './grammar-request.ts';
import { placementOf, refuseUnsupported, samplingOf, stopOf, streamOptionsOf } from './generation-request.ts';

export function chatCompletionsRoute(app: FastifyInstance, context: RouteContext): void {
  app.post('/v1/chat/completions', async (request, reply) => {
    const engine = context.lifecycle.engine();
    const source = request.body as JsonBody | undefined;
    const body = await readBody(ChatCompletionBody, source);
    refuseUnsupported(source?.value, unsupportedChatFields);
    const model = requestedModel(body.model, context.config, engine.info.id);
    const input = chatInput(body, source!, { config: context.config, info: engine.info, model });
    const options = {
      n: body.n ?? 1,
      logprobs: body.logprobs ?? false,
      ...streamOptionsOf(body, context.config, () => reply.elapsedTime),
      reasoningField: context.config.reasoningField,
      includeReasoning: body.include_reasoning ?? body.separate_reasoning ?? true,
    };
    const grammar = grammarOf(body, source!);
    const generation = generationOf({ body, input, grammar, info: engine.info, id: engineRequestId(request.id) });
    const header = answerHeader('chatcmpl', request.id, engine, model);
    const exchange = openExchange({ context, request, reply, engine, stream: body.stream ?? false });
    const requests = [{ ...generation, signal: exchange.controller.signal }];
    if (body.stream === true) {
      const chunks = new ChatChunks(header, options);
      await streamAnswer(exchange, requests, { from: (_, events) => chunks.from(events), closing: () => chunks.closing() });
    } else {
      const answer = new ChatAnswer(header, options);
      await wholeAnswer(exchange, requests, { add: (_, event) => answer.add(event), body: () => answer.body() });
    }
  });
}

interface Translated {
  body: ChatCompletionBody;
  input: ChatInput;
  grammar: Grammar | undefined;
  info: ModelInfo;
  id: string;
}

function generationOf({ body, input, grammar, info, id }: Translated): GenerationRequest {
  const maxTokens = body.max_completion_tokens ?? body.max_tokens;
  if (body.top_logprobs !== undefined && body.top_logprobs > 0 && body.logprobs !== true) {
    throw invalid('top_logprobs is only allowed with logprobs: true', 'top_logprobs');
  }
  return {
    id,
    input,
    sampling: samplingOf(body, info),
    stop: stopOf(body, info),
    ...(maxTokens !== undefined && { maxTokens }),
    n: body.n ?? 1,
    logprobs: body.logprobs === true ? (body.top_logprobs ?? 0) : -1,
    promptLogprobs: -1,
    ...(body.return_progress === true && { progress: true }),
    ...(grammar !== undefined && { grammar }),
    ...placementOf(body),
  };
}
