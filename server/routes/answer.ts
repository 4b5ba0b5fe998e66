// SPDX-License-Identifier: MIT
// Carries engine events to one client, streamed or whole: acceptance, failures, the client's leaving.

import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { EngineError } from '../../engine/index.ts';
import type { Engine, GenerationEvent, GenerationRequest } from '../../engine/index.ts';
import type { Config } from '../config.ts';
import { toHttpError } from '../errors.ts';
import type { HttpError } from '../errors.ts';
import type { RequestMeter } from '../request-meter.ts';
import { sentContext } from '../traces.ts';
import type { TraceExporter } from '../traces.ts';
import { SseWriter } from '../stream/sse.ts';
import type { Payload } from '../stream/sse.ts';
import { readAll, startAll } from './read-events.ts';
import type { Accepted } from './read-events.ts';

/** One HTTP request that generates. */
export interface Exchange {
  request: FastifyRequest;
  reply: FastifyReply;
  engine: Engine;
  config: Config;
  meter: RequestMeter;
  /** Where spans of requests go, if they are wanted. */
  traces: TraceExporter | undefined;
  /** Aborted when the client is gone or the answer has failed; every engine request carries its signal. */
  controller: AbortController;
}

/** How a protocol writes its stream. */
export interface StreamProtocol {
  framing: 'data' | 'named';
  ping?: () => readonly object[];
  /** The events that end a stream on a failure. */
  failure(error: HttpError): readonly object[];
}

const openai: StreamProtocol = { framing: 'data', failure: (error) => [error.body()] };

export interface ChunkSource {
  from(prompt: number, events: readonly GenerationEvent[]): Payload[];
  closing(): object[];
}

export interface AnswerSource {
  add(prompt: number, event: GenerationEvent): void;
  body(): Record<string, unknown>;
}

/** A controller that aborts when the connection closes before the answer is out: half-closed, reset or timed out. */
export function connectionController(reply: FastifyReply): AbortController {
  const controller = new AbortController();
  // A large body takes many turns of the event loop to read; its client may have left meanwhile.
  if (reply.raw.destroyed) controller.abort();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) controller.abort();
  });
  return controller;
}

/** What proxies log for a client that left before it was answered. */
export const clientLeft = 499;

/** Requests whose log line is written here, with counts that only an answer has. */
export const loggedAnswers = new WeakSet<FastifyRequest>();

/**
 * Answers with a stream of chunks. Headers go out when the engine accepts the requests, or after one keepalive
 * interval, so that a client waiting behind a long queue or prompt is kept.
 * @throws what the engine refuses with, before anything is sent.
 */
export function streamAnswer(
  exchange: Exchange,
  requests: GenerationRequest[],
  chunks: ChunkSource,
  protocol: StreamProtocol = openai,
): Promise<void> {
  return logged(exchange, async () => {
    const { reply, config, controller } = exchange;
    const accepted = start(exchange, requests);
    await Promise.race([accepted, pause(config.keepaliveIntervalMs, controller.signal)]);
    const writer = new SseWriter(reply.raw, {
      keepaliveIntervalMs: config.keepaliveIntervalMs,
      stallTimeoutMs: config.stallTimeoutMs,
      headers: sentHeaders(reply),
      framing: protocol.framing,
      ...(protocol.ping !== undefined && { ping: protocol.ping }),
    });
    reply.hijack();
    if (!reply.raw.destroyed) writer.open();
    try {
      await readAll(await accepted, (prompt, events) => {
        exchange.meter.batch(prompt, events);
        const sent = writer.send(chunks.from(prompt, events));
        throwFailure(events);
        return sent;
      });
      writer.end(chunks.closing());
    } catch (error) {
      reportFailure(exchange, error);
      writer.end(protocol.failure(toHttpError(error)));
    }
  });
}

/**
 * Answers with one object.
 * @throws what the engine refuses or fails with.
 */
export function wholeAnswer(exchange: Exchange, requests: GenerationRequest[], answer: AnswerSource): Promise<void> {
  return logged(exchange, async () => {
    const { reply, controller, meter } = exchange;
    try {
      await readAll(await start(exchange, requests), (prompt, events) => {
        meter.batch(prompt, events);
        for (const event of events) answer.add(prompt, event);
        throwFailure(events);
        return undefined;
      });
      await reply.send(answer.body());
    } catch (error) {
      if (!controller.signal.aborted) throw error;
      // Nobody is there to read the answer.
      reply.hijack();
      reply.raw.destroy();
    }
  });
}

/** Resolves when the engine has accepted all requests. @throws what it refuses with. */
async function start({ engine, meter }: Exchange, requests: GenerationRequest[]): Promise<Accepted[]> {
  meter.asked(requests);
  const accepted = await startAll(engine, requests);
  meter.accepted();
  return accepted;
}

/** Resolves after the time, or at once when the signal aborts. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal, ref: false }).catch(() => undefined);
}

/**
 * Runs an answer to its end and writes its log line: counts and times, no text. Whatever the end was, the engine
 * stops working for it.
 */
async function logged(exchange: Exchange, answer: () => Promise<void>): Promise<void> {
  const { request, reply, engine, meter, traces, controller } = exchange;
  loggedAnswers.add(request);
  const trace = sentContext(request.headers);
  let status = 200;
  try {
    await answer();
  } catch (error) {
    status = toHttpError(error).status;
    throw error;
  } finally {
    if (controller.signal.aborted && !reply.raw.writableFinished) status = clientLeft;
    const line = { url: request.url, status, ...(trace !== undefined && { traceId: trace.traceId }), ...meter.summary() };
    request.log.info(line, 'answered');
    traces?.add(
      { requestId: request.id, route: request.routeOptions.url ?? '', model: engine.info.id, status, ...meter.traced() },
      trace,
    );
    controller.abort();
  }
}

/** @throws EngineError when the batch ends a choice with a failure. */
function throwFailure(events: readonly GenerationEvent[]): void {
  for (const event of events) {
    if (event.kind !== 'end') continue;
    if (event.reason === 'error') throw event.error ?? new EngineError('INTERNAL', 'the engine gave no reason');
    if (event.reason === 'aborted') throw new EngineError('CLOSED', 'the answer was cut off: the server is shutting down');
  }
}

/** Faults go to the log in full; a full queue, the server's end and what the client did are none. */
function reportFailure({ request, controller }: Exchange, error: unknown): void {
  if (controller.signal.aborted) return;
  if (toHttpError(error).status === 500) request.log.error({ err: error }, 'generation failed');
}

function sentHeaders(reply: FastifyReply): Record<string, string> {
  return Object.fromEntries(Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)]));
}
