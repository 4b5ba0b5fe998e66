// SPDX-License-Identifier: MIT
// POST /v1/responses (OpenAI Responses, as Codex, the openai clients and the AI SDK use it). Responses are not stored; single
// items are remembered for a while, for clients that refer to them.

import { randomUUID } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import type { GenerationRequest } from '../../engine/index.ts';
import type { HttpError } from '../errors.ts';
import { requestedModel } from '../model-names.ts';
import { RecentItems } from '../recent-items.ts';
import { readBody } from '../schemas/parse.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { ResponsesBody, unsupportedResponsesFields } from '../schemas/responses.ts';
import { ResponseEvents } from '../stream/response-events.ts';
import { streamAnswer, wholeAnswer } from './answer.ts';
import { engineRequestId, openExchange } from './context.ts';
import type { RouteContext } from './context.ts';
import { placementOf, refuseUnsupported } from './generation-request.ts';
import { clientNames } from './response-tools.ts';
import { responsesGrammar, responsesInput, responsesSampling, withItems } from './response-request.ts';

/** Agents recognise an overlong input by its text, so the wording is OpenAI's for this endpoint, with the numbers behind. */
function responsesError(error: HttpError): object {
  const { error: fields, ...rest } = error.body();
  if (error.code !== 'context_length_exceeded') return { error: fields, ...rest };
  const message = `Your input exceeds the context window of this model. ${error.message}`;
  return { error: { ...fields, message, param: 'input' } };
}

export function responsesRoute(app: FastifyInstance, context: RouteContext): void {
  const recent = new RecentItems();
  app.post('/v1/responses', { config: { errorBody: responsesError } }, async (request, reply) => {
    const engine = context.lifecycle.engine();
    const source = request.body as JsonBody | undefined;
    const body = await readBody(ResponsesBody, source && { ...source, value: withItems(source.value, recent) });
    refuseUnsupported(source?.value, unsupportedResponsesFields);
    const model = requestedModel(body.model, context.config, engine.info.id);
    const chat = { config: context.config, info: engine.info, model };
    const grammar = responsesGrammar(body, source!);
    const generation: GenerationRequest = {
      id: engineRequestId(request.id),
      input: responsesInput(body, source!, chat),
      sampling: responsesSampling(body, chat),
      stop: { strings: [], tokens: [], includeInOutput: false, ignoreEos: false, minTokens: 0 },
      ...(body.max_output_tokens !== undefined && { maxTokens: body.max_output_tokens }),
      n: 1,
      logprobs: logprobsOf(body),
      promptLogprobs: -1,
      ...(grammar !== undefined && { grammar }),
      ...placementOf(body),
    };
    const events = new ResponseEvents({
      id: request.id,
      itemKey: randomUUID().replaceAll('-', ''),
      created: Math.floor(Date.now() / 1e3),
      model: model.name,
      endToken: engine.info.eosToken,
      echo: echoOf(body, source!, generation),
      toolName: clientNames(body),
      ...(body.store !== false && { onItem: (item) => recent.add(item) }),
      packReasoning: body.include?.includes('reasoning.encrypted_content') ?? false,
    });
    const exchange = openExchange({ context, request, reply, engine, stream: body.stream ?? false });
    const requests = [{ ...generation, signal: exchange.controller.signal }];
    if (body.stream === true) {
      await streamAnswer(exchange, requests, events, {
        framing: 'named',
        ping: () => events.ping(),
        failure: (error) => events.failure(error),
      });
    } else {
      await wholeAnswer(exchange, requests, {
        add: (prompt, event) => void events.from(prompt, [event]),
        body: () => events.response(),
      });
    }
  });
}

/** Alternatives of each token of the answer; asking for some asks for log-probabilities too. -1: none. */
function logprobsOf({ include, top_logprobs: top = 0 }: ResponsesBody): number {
  return top > 0 || include?.includes('message.output_text.logprobs') === true ? top : -1;
}

/** The request's own fields as the response repeats them, with what was used where it named none. */
function echoOf(body: ResponsesBody, source: JsonBody, { sampling }: GenerationRequest): Record<string, unknown> {
  const { tools, text } = source.value as { tools?: unknown; text?: { format?: unknown } | null };
  return {
    background: false,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    metadata: body.metadata ?? {},
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: null,
    reasoning: { effort: body.reasoning?.effort ?? null, summary: null },
    service_tier: 'default',
    store: false,
    temperature: sampling.temperature,
    text: { format: text?.format ?? { type: 'text' } },
    tool_choice: body.tool_choice ?? 'auto',
    tools: tools ?? [],
    top_logprobs: body.top_logprobs ?? 0,
    top_p: sampling.topP,
    truncation: 'disabled',
  };
}
