// SPDX-License-Identifier: MIT
// Prometheus metrics under vLLM's names, so that its dashboards and scalers work unchanged; what vLLM does not have is
// under twelvex:. The engine's own counters are read when somebody scrapes; requests are timed as they pass.

import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStats, FinishReason } from '../engine/index.ts';
import type { Config } from './config.ts';
import type { Lifecycle } from './lifecycle.ts';
import { histogramMetric } from './counted-histogram.ts';
import { defineHistograms, RequestMeter } from './request-meter.ts';
import type { Histograms, MeterStart } from './request-meter.ts';

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
  ['twelvex:reductions_overlapped_total', 'Sums over GPUs run beside a product.', (stats) => stats.reductionsOverlapped],
  ['twelvex:reductions_inline_total', 'Sums over GPUs run in line.', (stats) => stats.reductionsInline],
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

// vLLM's, too.
const httpBuckets = [0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60];

const renderCacheMs = 25;

export class ServerMetrics {
  readonly #registry = new Registry();
  readonly #lifecycle: Lifecycle;
  #histograms: Histograms | undefined;
  #rendered: { atMs: number; text: Promise<string> } | undefined;

  readonly #prefixCache: boolean;
  readonly #httpRequests: Counter;
  readonly #httpSeconds: Histogram;

  constructor(lifecycle: Lifecycle, { prefixCache }: Pick<Config, 'prefixCache'>) {
    this.#lifecycle = lifecycle;
    this.#prefixCache = prefixCache;
    const registers = [this.#registry];
    const labelNames = ['handler', 'method', 'status'];
    this.#httpRequests = new Counter({ name: 'http_requests_total', help: 'Requests answered.', labelNames, registers });
    const [name, help] = ['http_request_duration_seconds', 'Arrival to the last byte.'];
    this.#httpSeconds = new Histogram({ name, help, labelNames: ['handler', 'method'], buckets: httpBuckets, registers });
  }

  /** Counts an answered HTTP request; `handler` is the path of its route, or none when it found no route. */
  answered({ handler, method, status, seconds }: { handler: string; method: string; status: number; seconds: number }): void {
    this.#httpRequests.inc({ handler, method, status: `${Math.floor(status / 100)}xx` });
    this.#httpSeconds.observe({ handler, method }, seconds);
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

  meter(start: MeterStart): RequestMeter {
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
    const cacheInfo = {
      block_size: blockTokens,
      num_gpu_blocks: contextBlocks,
      cache_dtype: engine.info.rowFormat,
      // As Python writes it.
      enable_prefix_caching: this.#prefixCache ? 'True' : 'False',
    };
    new Gauge({ name: 'vllm:cache_config_info', help: 'Shape of the cache.', labelNames: Object.keys(cacheInfo), registers }).set(
      cacheInfo,
      1,
    );
    this.#histograms = defineHistograms(engine.info.maxModelLen, this.#registry);
    return this.#histograms;
  }

  #defineLabelled(stats: () => EngineStats, registers: Registry[]): void {
    const tokens = 'Prompt and generated tokens of a step.';
    this.#registry.registerMetric(histogramMetric('vllm:iteration_tokens_total', tokens, () => stats().stepTokens));
    new Counter({
      name: 'vllm:prompt_tokens_by_source_total',
      help: 'Prompt tokens, computed or found in the prefix cache.',
      labelNames: ['source'],
      registers,
      collect(): void {
        const { promptTokens, cachedPromptTokens } = stats();
        this.reset();
        this.inc({ source: 'local_compute' }, promptTokens - cachedPromptTokens);
        this.inc({ source: 'local_cache_hit' }, cachedPromptTokens);
      },
    });
    new Gauge({
      name: 'vllm:num_requests_waiting_by_reason',
      help: 'Sequences waiting, for a seat (capacity) or because they are still being prepared (deferred).',
      labelNames: ['reason'],
      registers,
      collect(): void {
        const { waiting, preparing } = stats();
        this.set({ reason: 'capacity' }, waiting - preparing);
        this.set({ reason: 'deferred' }, preparing);
      },
    });
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
