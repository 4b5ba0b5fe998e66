// SPDX-License-Identifier: MIT
// POST /v1/completions

import type { FastifyInstance } from 'fastify';
import type { Engine, GenerationRequest, PromptInput } from '../../engine/index.ts';
import { requestedModel } from '../model-names.ts';
import { CompletionBody } from '../schemas/completions.ts';
import { readBody } from '../schemas/parse.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { CompletionAnswer, CompletionChunks } from '../stream/completion-pieces.ts';
import { streamAnswer, wholeAnswer } from './answer.ts';
import { promptInputs } from './completion-request.ts';
import { answerHeader, engineRequestId, openExchange } from './context.ts';
import type { RouteContext } from './context.ts';
import { grammarOf } from './grammar-request.ts';
import { placementOf, refuseUnsupported, samplingOf, stopOf, streamOptionsOf } from './generation-request.ts';

const defaultMaxTokens = 16;

export function completionsRoute(app: FastifyInstance, context: RouteContext): void {
  app.post('/v1/completions', async (request, reply) => {
    const engine = context.lifecycle.engine();
    const source = request.body as JsonBody | undefined;
    const body = await readBody(CompletionBody, source);
    refuseUnsupported(source?.value);
    const model = requestedModel(body.model, context.config, engine.info.id);
    const inputs = promptInputs(body, engine.info);
    const options = {
      n: body.n ?? 1,
      logprobs: body.logprobs !== undefined,
      ...streamOptionsOf(body, context.config, () => reply.elapsedTime),
      tokenBytes: (token: number) => engine.tokenBytes(token),
      ...(body.echo === true && { echo: await Promise.all(inputs.map((input) => engine.render(input))) }),
    };
    const header = answerHeader('cmpl', request.id, engine, model);
    const exchange = openExchange({ context, request, reply, engine, stream: body.stream ?? false });
    const grammar = grammarOf(body, source!);
    const requests = inputs.map((input, index) => ({
      ...generationOf(body, input, engine),
      ...(grammar !== undefined && { grammar }),
      id: `${engineRequestId(request.id)}/${index}`,
      signal: exchange.controller.signal,
    }));
    if (body.stream === true) await streamAnswer(exchange, requests, new CompletionChunks(header, options));
    else await wholeAnswer(exchange, requests, new CompletionAnswer(header, options));
  });
}

function generationOf(body: CompletionBody, input: PromptInput, { info }: Engine): Omit<GenerationRequest, 'id'> {
  const logprobs = body.logprobs ?? -1;
  return {
    input,
    sampling: samplingOf(body, info),
    stop: stopOf(body, info),
    maxTokens: body.max_tokens ?? defaultMaxTokens,
    n: body.n ?? 1,
    logprobs,
    promptLogprobs: body.echo === true ? logprobs : -1,
    ...(body.return_progress === true && { progress: true }),
    ...placementOf(body),
  };
}
