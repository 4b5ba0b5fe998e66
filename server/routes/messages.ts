// SPDX-License-Identifier: MIT
// POST /v1/messages and /v1/messages/count_tokens (Anthropic).

import type { FastifyInstance, RouteShorthandOptions } from 'fastify';
import type { GenerationRequest } from '../../engine/index.ts';
import type { HttpError } from '../errors.ts';
import { requestedModel } from '../model-names.ts';
import type { RequestedModel } from '../model-names.ts';
import { CountTokensBody, MessagesBody } from '../schemas/messages.ts';
import { readBody } from '../schemas/parse.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { MessageAnswer, MessageEvents } from '../stream/message-events.ts';
import { streamAnswer, wholeAnswer } from './answer.ts';
import type { StreamProtocol } from './answer.ts';
import type { ChatContext } from './chat-request.ts';
import { engineRequestId, openExchange } from './context.ts';
import type { RouteContext } from './context.ts';
import { messagesGrammar, messagesInput, messagesSampling, messagesStop } from './message-request.ts';

const errorTypes: Record<number, string> = {
  400: 'invalid_request_error',
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
};

/** Anthropic's error body. Agents recognise an overlong prompt by its text, so the wording is theirs. */
export function messagesError(error: HttpError): object {
  const { n_prompt_tokens: tokens, n_ctx: most } = error.options.extra ?? {};
  const overlong = error.code === 'context_length_exceeded' && tokens !== undefined;
  const message = overlong ? `prompt is too long: ${String(tokens)} tokens > ${String(most)} maximum` : error.message;
  return {
    type: 'error',
    error: { type: errorTypes[error.status] ?? (error.status < 500 ? 'invalid_request_error' : 'api_error'), message },
  };
}

const protocol: StreamProtocol = {
  framing: 'named',
  ping: () => [{ type: 'ping' }],
  failure: (error) => [messagesError(error)],
};

/** Failures of these routes have Anthropic's body, and all answers the id under the name that Anthropic's client reads. */
const routeOptions: RouteShorthandOptions = {
  config: { errorBody: messagesError },
  onRequest: async (request, reply) => void reply.header('request-id', request.id),
};

export function messagesRoute(app: FastifyInstance, context: RouteContext): void {
  app.post('/v1/messages', routeOptions, async (request, reply) => {
    const engine = context.lifecycle.engine();
    const source = request.body as JsonBody | undefined;
    const body = await readBody(MessagesBody, source);
    const chat = chatContext(body.model, context);
    const grammar = messagesGrammar(body, source!);
    const generation: GenerationRequest = {
      id: engineRequestId(request.id),
      input: await messagesInput(body, source!, chat),
      sampling: messagesSampling(body, chat),
      stop: messagesStop(body),
      maxTokens: body.max_tokens,
      n: 1,
      logprobs: -1,
      promptLogprobs: -1,
      ...(grammar !== undefined && { grammar }),
    };
    const header = { id: `msg_${request.id}`, model: chat.model.name };
    const exchange = openExchange({ context, request, reply, engine, stream: body.stream ?? false });
    const requests = [{ ...generation, signal: exchange.controller.signal }];
    if (body.stream === true) await streamAnswer(exchange, requests, new MessageEvents(header), protocol);
    else await wholeAnswer(exchange, requests, new MessageAnswer(header));
  });

  app.post('/v1/messages/count_tokens', routeOptions, async (request) => {
    const source = request.body as JsonBody | undefined;
    const body = await readBody(CountTokensBody, source);
    const input = await messagesInput(body, source!, chatContext(body.model, context));
    const tokens = await context.lifecycle.engine().encode(input);
    return { input_tokens: tokens.length };
  });
}

/** Claude Code and other clients keep asking for their own models; whatever they call it, this server has one. */
function chatContext(name: string, { lifecycle, config }: RouteContext): ChatContext {
  const { info } = lifecycle.engine();
  const model: RequestedModel = name.startsWith('claude') ? { name } : requestedModel(name, config, info.id);
  return { config, info, model };
}
