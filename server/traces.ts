// SPDX-License-Identifier: MIT
// A span for each answered request, sent to an OpenTelemetry collector as OTLP over HTTP in JSON. Names of spans and
// attributes are vLLM's, with those of the later GenAI conventions beside them.

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyBaseLogger } from 'fastify';
import type { GenerationRequest, Timing } from '../engine/index.ts';
import { version } from './version.ts';

/** Where a request stands in a trace (W3C Trace Context). */
export interface TraceContext {
  /** 32 hexadecimal digits. */
  traceId: string;
  /** 16 hexadecimal digits; absent where the trace begins here. */
  parentId?: string;
  state?: string;
  /** The caller's decision to record; what has no caller is recorded. */
  sampled: boolean;
}

type Headers = Record<string, string | string[] | undefined>;

const traceparent = /^(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$/;

/** The context that a client sends; undefined without a valid one. */
export function sentContext(headers: Headers): TraceContext | undefined {
  const [, traceId = '', parentId = '', flags = ''] = traceparent.exec(String(headers['traceparent'] ?? '')) ?? [];
  if (!/[1-9a-f]/.test(traceId) || !/[1-9a-f]/.test(parentId)) return undefined;
  const state = headers['tracestate'];
  return { traceId, parentId, sampled: (parseInt(flags, 16) & 1) === 1, ...(state !== undefined && { state: String(state) }) };
}

/** What a span tells about a request; no text of it. */
export interface TracedRequest {
  requestId: string;
  /** Path of its route. */
  route: string;
  model: string;
  asked: readonly GenerationRequest[];
  promptTokens: number;
  completionTokens: number;
  finishReasons: readonly string[];
  /** performance.now() */
  arrivedAtMs: number;
  endedAtMs: number;
  firstTokenAtMs: number | undefined;
  /** Of the choice that ended last. */
  timing: Timing | undefined;
  /** Of HTTP; 200 for a stream that failed on its way. */
  status: number;
}

type Value = { stringValue: string } | { intValue: string } | { doubleValue: number } | { arrayValue: { values: Value[] } };

function valueOf(value: unknown): Value {
  if (Array.isArray(value)) return { arrayValue: { values: value.map(valueOf) } };
  if (typeof value !== 'number') return { stringValue: String(value) };
  return Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}

function attributesOf(fields: Record<string, unknown>): { key: string; value: Value }[] {
  return Object.entries(fields).flatMap(([key, value]) => (value === undefined ? [] : [{ key, value: valueOf(value) }]));
}

const seconds = (ms: number): Value => ({ doubleValue: ms / 1e3 });
const nanoseconds = (atMs: number): string => String(BigInt(Math.round((performance.timeOrigin + atMs) * 1e3)) * 1000n);

/** The span in OTLP's JSON. */
export function requestSpan(request: TracedRequest, context: TraceContext): Record<string, unknown> {
  const { arrivedAtMs, endedAtMs, firstTokenAtMs, timing, asked, status, finishReasons } = request;
  const error = status !== 200 ? String(status) : finishReasons.includes('error') ? '500' : undefined;
  const sampling = asked[0]?.sampling;
  const latencies = {
    'gen_ai.latency.e2e': endedAtMs - arrivedAtMs,
    ...(firstTokenAtMs !== undefined && { 'gen_ai.latency.time_to_first_token': firstTokenAtMs - arrivedAtMs }),
    ...(timing !== undefined && {
      'gen_ai.latency.time_in_queue': timing.queuedMs,
      'gen_ai.latency.time_in_model_prefill': timing.firstTokenMs - timing.queuedMs,
      'gen_ai.latency.time_in_model_decode': timing.totalMs - timing.firstTokenMs,
      'gen_ai.latency.time_in_model_inference': timing.totalMs - timing.queuedMs,
    }),
  };
  return {
    traceId: context.traceId,
    spanId: randomBytes(8).toString('hex'),
    ...(context.parentId !== undefined && { parentSpanId: context.parentId }),
    ...(context.state !== undefined && { traceState: context.state }),
    name: 'llm_request',
    // A server's.
    kind: 2,
    startTimeUnixNano: nanoseconds(arrivedAtMs),
    endTimeUnixNano: nanoseconds(endedAtMs),
    attributes: [
      ...attributesOf({
        'http.route': request.route,
        'http.response.status_code': status,
        'gen_ai.operation.name': request.route === '/v1/completions' ? 'text_completion' : 'chat',
        'gen_ai.request.id': request.requestId,
        'gen_ai.request.max_tokens': asked[0]?.maxTokens,
        'gen_ai.request.n': asked.reduce((sum, { n }) => sum + n, 0),
        'gen_ai.request.temperature': sampling?.temperature,
        'gen_ai.request.top_p': sampling?.topP,
        'gen_ai.response.model': request.model,
        'gen_ai.response.finish_reasons': finishReasons,
        'gen_ai.usage.num_sequences': finishReasons.length,
        'gen_ai.usage.prompt_tokens': request.promptTokens,
        'gen_ai.usage.completion_tokens': request.completionTokens,
        'gen_ai.usage.input_tokens': request.promptTokens,
        'gen_ai.usage.output_tokens': request.completionTokens,
        'error.type': error,
      }),
      ...Object.entries(latencies).map(([key, ms]) => ({ key, value: seconds(ms) })),
    ],
    status: error === undefined ? {} : { code: 2, message: error },
  };
}

const sendAfterMs = 2000;
const mostInBatch = 512;
const mostWaiting = 4096;
const requestLimitMs = 10_000;
const closeLimitMs = 2000;

/**
 * Sends spans in batches, one at a time, beside everything else: what a collector does not take, or is too slow to take, is
 * dropped, and the log says so.
 */
export class TraceExporter {
  readonly #url: string;
  readonly #log: FastifyBaseLogger;
  #spans: object[] = [];
  /** Since the last batch. */
  #dropped = 0;
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;

  /** @param endpoint of the collector; without a path it is OTLP's /v1/traces */
  constructor(endpoint: string, log: FastifyBaseLogger) {
    const url = new URL(endpoint);
    if (url.pathname === '/') url.pathname = '/v1/traces';
    this.#url = url.href;
    this.#log = log;
  }

  add(request: TracedRequest, context: TraceContext | undefined): void {
    const placed = context ?? { traceId: randomBytes(16).toString('hex'), sampled: true };
    if (!placed.sampled) return;
    if (this.#spans.length >= mostWaiting) {
      this.#dropped += 1;
      return;
    }
    this.#spans.push(requestSpan(request, placed));
    this.#timer ??= setTimeout(() => this.#flush(), sendAfterMs).unref();
  }

  /** Sends what there is; a collector that does not answer holds nobody up for long. */
  async close(): Promise<void> {
    this.#flush();
    await Promise.race([this.#sending, sleep(closeLimitMs, undefined, { ref: false })]);
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#sending ??= this.#sendAll().finally(() => (this.#sending = undefined));
  }

  async #sendAll(): Promise<void> {
    while (this.#spans.length > 0) {
      await this.#send(this.#spans.splice(0, mostInBatch));
      if (this.#dropped > 0) this.#tellLost(this.#dropped, 'the collector is too slow');
      this.#dropped = 0;
    }
  }

  #tellLost(spans: number, reason: string): void {
    this.#log.warn({ url: this.#url, spans, reason }, 'spans are lost');
  }

  async #send(spans: object[]): Promise<void> {
    const scope = { name: 'twelvex', version };
    const resource = { attributes: attributesOf({ 'service.name': 'twelvex', 'service.version': version }) };
    const body = JSON.stringify({ resourceSpans: [{ resource, scopeSpans: [{ scope, spans }] }] });
    try {
      const signal = AbortSignal.timeout(requestLimitMs);
      const response = await fetch(this.#url, { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal });
      await response.arrayBuffer();
      if (!response.ok) throw new Error(`the collector answers ${response.status}`);
    } catch (error) {
      const { message, cause } = error as Error & { cause?: { code?: string } };
      // Of a connection that fails, fetch says no more than that.
      this.#tellLost(spans.length, cause?.code === undefined ? message : `${message}: ${cause.code}`);
    }
  }
}
