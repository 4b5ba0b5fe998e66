// SPDX-License-Identifier: MIT
// Prometheus metrics under vLLM's names, so that its dashboards and scalers work unchanged; what vLLM does not have is
// under twelvex:. The engine's own counters are read when somebody scrapes; requests are timed as they pass.

import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStats, FinishReason, GenerationEvent } from '../engine/index.ts';
import type { Lifecycle } from './lifecycle.ts';

type EngineCounter = [name: string, help: string, read: (stats: EngineStats) => number];

const counters: EngineCounter[] = [
  ['vllm:prompt_tokens_total', 'Prompt tokens accepted.', (stats) => stats.promptTokens],
  ['vllm:prompt_tokens_cached_total', 'Prompt tokens found in the prefix cache.', (stats) => stats.cachedPromptTokens],
  ['vllm:generation_tokens_total', 'Tokens generated.', (stats) => stats.generatedTokens],
  ['vllm:num_preemptions_total', 'Sequences preempted to be recomputed.', (stats) => stats.preemptions],
  ['vllm:prefix_cache_queries_total', 'Tokens looked up in the prefix cache.', (stats) => stats.prefixQueries],
  ['vllm:prefix_cache_hits_total', 'Tokens found in the prefix cache.', (stats) => stats.prefixHits],
  ['vllm:spec_decode_num_drafts_total', 'Rows that carried drafts.', (stats) => stats.drafts],
  ['vllm:spec_decode_num_draft_tokens_total', 'Tokens drafted.', (stats) => stats.draftTokens],
  ['vllm:spec_decode_num_accepted_tokens_total', 'Drafted tokens accepted.', (stats) => stats.acceptedTokens],
  ['twelvex:steps_total', 'Engine steps.', (stats) => stats.steps],
  ['twelvex:gathers_overlapped_total', 'Gathers of cache rows run beside the indexer.', (stats) => stats.gathersOverlapped],
  ['twelvex:gathers_inline_total', 'Gathers of cache rows run in line.', (stats) => stats.gathersInline],
];

const gauges: EngineCounter[] = [
  ['vllm:num_requests_running', 'Sequences being computed.', (stats) => stats.running],
  ['vllm:num_requests_waiting', 'Sequences waiting for a seat.', (stats) => stats.waiting],
  ['vllm:kv_cache_usage_perc', 'Fuller of the two block pools, 0 to 1.', (stats) => stats.kvUsage],
  ['twelvex:free_context_blocks', 'Context blocks held by no sequence.', (stats) => stats.freeContextBlocks],
  ['twelvex:free_window_blocks', 'Window blocks held by no sequence.', (stats) => stats.freeWindowBlocks],
  ['twelvex:free_slots', 'Slots held by no sequence.', (stats) => stats.freeSlots],
];

/** vLLM says stop for a tool call, abort for a client that left. */
const successReasons: Record<FinishReason, string> = {
  stop: 'stop',
  tool_calls: 'stop',
  length: 'length',
  aborted: 'abort',
  error: 'error',
};

// Buckets are vLLM's, so that rules and dashboards written for it match.
const latencyBuckets = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
const firstTokenBuckets = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const tokenGapBuckets = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];

/** 1, 2, 5, 10, … up to the longest sequence. */
function tokenBuckets(most: number): number[] {
  const buckets: number[] = [];
  for (let power = 1; power <= most; power *= 10)
    buckets.push(...[1, 2, 5].map((mantissa) => mantissa * power).filter((value) => value <= most));
  return buckets;
}

const renderCacheMs = 25;

interface Histograms {
  firstToken: Histogram;
  tokenGap: Histogram;
  perToken: Histogram;
  total: Histogram;
  queue: Histogram;
  inference: Histogram;
  prefill: Histogram;
  decode: Histogram;
  promptTokens: Histogram;
  generatedTokens: Histogram;
}

export interface MetersStart {
  /** performance.now() when the request came in. */
  arrivedAtMs: number;
  stream: boolean;
}

export class ServerMetrics {
  readonly #registry = new Registry();
  readonly #lifecycle: Lifecycle;
  #histograms: Histograms | undefined;
  #rendered: { atMs: number; text: Promise<string> } | undefined;

  constructor(lifecycle: Lifecycle) {
    this.#lifecycle = lifecycle;
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** Text of all metrics; at most one rendering in 25 ms however often it is scraped. */
  render(): Promise<string> {
    const now = performance.now();
    if (this.#rendered === undefined || now - this.#rendered.atMs > renderCacheMs) {
      if (this.#lifecycle.isLoaded) this.#define();
      this.#rendered = { atMs: now, text: this.#registry.metrics() };
    }
    return this.#rendered.text;
  }

  meter(start: MetersStart): RequestMeter {
    return new RequestMeter(this.#define(), start);
  }

  /** Metrics carry the model's name, so they exist from the moment there is a model. */
  #define(): Histograms {
    if (this.#histograms !== undefined) return this.#histograms;
    const engine = this.#lifecycle.loaded();
    this.#registry.setDefaultLabels({ model_name: engine.info.id, engine: '0' });
    const registers = [this.#registry];
    const stats = (): EngineStats => engine.stats();
    for (const [name, help, read] of gauges) {
      new Gauge({
        name,
        help,
        registers,
        collect(): void {
          this.set(read(stats()));
        },
      });
    }
    for (const [name, help, read] of counters) {
      new Counter({
        name,
        help,
        registers,
        collect(): void {
          setCounter(this, read(stats()));
        },
      });
    }
    this.#defineLabelled(stats, registers);
    const { blockTokens, contextBlocks } = engine.info.cache;
    const cacheInfo = { block_size: blockTokens, num_gpu_blocks: contextBlocks, cache_dtype: engine.info.rowFormat };
    new Gauge({ name: 'vllm:cache_config_info', help: 'Shape of the cache.', labelNames: Object.keys(cacheInfo), registers }).set(
      cacheInfo,
      1,
    );
    this.#histograms = defineHistograms(engine.info.maxModelLen, registers);
    return this.#histograms;
  }

  #defineLabelled(stats: () => EngineStats, registers: Registry[]): void {
    new Counter({
      name: 'vllm:request_success_total',
      help: 'Choices that ended, by reason.',
      labelNames: ['finished_reason'],
      registers,
      collect(): void {
        const sums: Record<string, number> = {};
        for (const [reason, count] of Object.entries(stats().finished)) {
          const name = successReasons[reason as FinishReason];
          sums[name] = (sums[name] ?? 0) + count;
        }
        this.reset();
        for (const [reason, count] of Object.entries(sums)) this.inc({ finished_reason: reason }, count);
      },
    });
    new Counter({
      name: 'vllm:spec_decode_num_accepted_tokens_per_pos_total',
      help: 'Drafted tokens accepted, by place in the draft.',
      labelNames: ['position'],
      registers,
      collect(): void {
        this.reset();
        stats().acceptedPerPosition.forEach((count, position) => this.inc({ position }, count));
      },
    });
  }
}

/** The engine counts for itself; a counter here repeats its value. */
function setCounter(counter: Counter, value: number): void {
  counter.reset();
  counter.inc(value);
}

function defineHistograms(maxModelLen: number, registers: Registry[]): Histograms {
  const histogram = (name: string, help: string, buckets: number[]): Histogram =>
    new Histogram({ name, help, buckets, registers });
  const tokens = tokenBuckets(maxModelLen);
  return {
    firstToken: histogram('vllm:time_to_first_token_seconds', 'Arrival to first token.', firstTokenBuckets),
    tokenGap: histogram('vllm:inter_token_latency_seconds', 'Gap between tokens of an answer.', tokenGapBuckets),
    perToken: histogram('vllm:request_time_per_output_token_seconds', 'Mean gap between tokens of an answer.', tokenGapBuckets),
    total: histogram('vllm:e2e_request_latency_seconds', 'Arrival to last token.', latencyBuckets),
    queue: histogram('vllm:request_queue_time_seconds', 'Arrival to first step.', latencyBuckets),
    inference: histogram('vllm:request_inference_time_seconds', 'First step to last token.', latencyBuckets),
    prefill: histogram('vllm:request_prefill_time_seconds', 'First step to first token.', latencyBuckets),
    decode: histogram('vllm:request_decode_time_seconds', 'First token to last.', latencyBuckets),
    promptTokens: histogram('vllm:request_prompt_tokens', 'Prompt tokens of a request.', tokens),
    generatedTokens: histogram('vllm:request_generation_tokens', 'Tokens generated for a request.', tokens),
  };
}

/** Times one HTTP request from its engine events. */
export class RequestMeter {
  readonly #histograms: Histograms;
  readonly #start: MetersStart;
  readonly #lastTokenMs = new Map<number, number>();
  #firstTokenMs: number | undefined;
  #promptTokens = 0;
  #cachedTokens = 0;
  #completionTokens = 0;
  #reasons: string[] = [];

  constructor(histograms: Histograms, start: MetersStart) {
    this.#histograms = histograms;
    this.#start = start;
  }

  batch(events: readonly GenerationEvent[]): void {
    for (const event of events) {
      if (event.kind === 'prompt') this.#prompt(event);
      if (event.kind === 'tokens') this.#tokens(event.choice, event.ids.length);
      if (event.kind === 'end') this.#end(event);
    }
  }

  /** Counts and times of the request for its log line. */
  summary(): Record<string, unknown> {
    const { arrivedAtMs, stream } = this.#start;
    const round = (ms: number): number => Math.round(ms * 10) / 10;
    return {
      stream,
      promptTokens: this.#promptTokens,
      cachedTokens: this.#cachedTokens,
      completionTokens: this.#completionTokens,
      finish: this.#reasons.join(','),
      ...(this.#firstTokenMs !== undefined && { firstTokenMs: round(this.#firstTokenMs - arrivedAtMs) }),
      totalMs: round(performance.now() - arrivedAtMs),
    };
  }

  #prompt(event: GenerationEvent & { kind: 'prompt' }): void {
    if (event.choice !== 0) return;
    this.#promptTokens += event.tokens.length;
    this.#cachedTokens += event.cachedTokens;
    this.#histograms.promptTokens.observe(event.tokens.length);
  }

  /** Tokens of one step arrive together and share its gap. */
  #tokens(choice: number, count: number): void {
    const now = performance.now();
    const last = this.#lastTokenMs.get(choice);
    this.#lastTokenMs.set(choice, now);
    if (last !== undefined) this.#histograms.tokenGap.observe((now - last) / 1e3 / Math.max(1, count));
    if (this.#firstTokenMs !== undefined) return;
    this.#firstTokenMs = now;
    this.#histograms.firstToken.observe((now - this.#start.arrivedAtMs) / 1e3);
  }

  #end(event: GenerationEvent & { kind: 'end' }): void {
    const { timing, usage, reason } = event;
    this.#completionTokens += usage.completionTokens;
    this.#reasons.push(reason);
    if (reason === 'error' || reason === 'aborted') return;
    const { total, queue, inference, prefill, decode, perToken, generatedTokens } = this.#histograms;
    const seconds = (ms: number): number => Math.max(0, ms) / 1e3;
    total.observe((performance.now() - this.#start.arrivedAtMs) / 1e3);
    queue.observe(seconds(timing.queuedMs));
    inference.observe(seconds(timing.totalMs - timing.queuedMs));
    prefill.observe(seconds(timing.firstTokenMs - timing.queuedMs));
    decode.observe(seconds(timing.totalMs - timing.firstTokenMs));
    generatedTokens.observe(usage.completionTokens);
    if (usage.completionTokens > 1) {
      perToken.observe(seconds(timing.totalMs - timing.firstTokenMs) / (usage.completionTokens - 1));
    }
  }
}
