// SPDX-License-Identifier: MIT
// What every route gets, and the small steps that open a generating request.

import { randomUUID } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Engine } from '../../engine/index.ts';
import type { Config } from '../config.ts';
import type { Lifecycle } from '../lifecycle.ts';
import type { ServerMetrics } from '../metrics.ts';
import type { RequestedModel } from '../model-names.ts';
import type { TraceExporter } from '../traces.ts';
import type { AnswerHeader } from '../stream/wire.ts';
import { connectionController } from './answer.ts';
import type { Exchange } from './answer.ts';

export interface RouteContext {
  lifecycle: Lifecycle;
  config: Config;
  metrics: ServerMetrics;
  traces: TraceExporter | undefined;
}

export interface OpenExchange {
  context: RouteContext;
  request: FastifyRequest;
  reply: FastifyReply;
  engine: Engine;
  stream: boolean;
}

/** Starts timing a request and watching its connection. */
export function openExchange({ context, request, reply, engine, stream }: OpenExchange): Exchange {
  const arrivedAtMs = performance.now() - reply.elapsedTime;
  const meter = context.metrics.meter({ arrivedAtMs, stream });
  const { config, traces } = context;
  return { request, reply, engine, config, meter, traces, controller: connectionController(reply) };
}

export function answerHeader(prefix: string, requestId: string, engine: Engine, model: RequestedModel): AnswerHeader {
  const created = Math.floor(Date.now() / 1e3);
  return { id: `${prefix}-${requestId}`, created, model: model.name, fingerprint: engine.info.fingerprint };
}

/** Clients may repeat their request ids; the engine's are unique. */
export function engineRequestId(requestId: string): string {
  return `${requestId}:${randomUUID().slice(0, 8)}`;
}
