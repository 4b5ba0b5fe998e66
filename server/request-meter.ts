// SPDX-License-Identifier: MIT
// Times requests as their events pass, into histograms with vLLM's names and buckets.

import { Histogram } from 'prom-client';
import type { Registry } from 'prom-client';
import { CountedHistogram, histogramMetric } from './counted-histogram.ts';
import type { GenerationEvent, GenerationRequest, Timing } from '../engine/index.ts';
import type { TracedRequest } from './traces.ts';

// Buckets are vLLM's, so that rules and dashboards written for it match.
const latencyBuckets = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
const firstTokenBuckets = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const tokenGapBuckets = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];

const choiceBuckets = [1, 2, 5, 10, 20];

/** 1, 2, 5, 10, … up to the longest sequence. */
function tokenBuckets(most: number): number[] {
  const buckets: number[] = [];
  for (let power = 1; power <= most; power *= 10)
    buckets.push(...[1, 2, 5].map((mantissa) => mantissa * power).filter((value) => value <= most));
  return buckets;
}

export interface Histograms {
  firstToken: Histogram;
  /** The only one that is told something for every token. */
  tokenGap: CountedHistogram;
  perToken: Histogram;
  total: Histogram;
  queue: Histogram;
  inference: Histogram;
  prefill: Histogram;
  decode: Histogram;
  promptTokens: Histogram;
  generatedTokens: Histogram;
  computedTokens: Histogram;
  maxGenerated: Histogram;
  maxTokens: Histogram;
  choices: Histogram;
}

export interface MeterStart {
  /** performance.now() when the request came in. */
  arrivedAtMs: number;
  stream: boolean;
}

/** @param maxModelLen the longest sequence, which bounds the token buckets */
export function defineHistograms(maxModelLen: number, registry: Registry): Histograms {
  const histogram = (name: string, help: string, buckets: number[]): Histogram =>
    new Histogram({ name, help, buckets, registers: [registry] });
  const tokenGap = new CountedHistogram(tokenGapBuckets);
  registry.registerMetric(
    histogramMetric('vllm:inter_token_latency_seconds', 'Gap between tokens of an answer.', () => tokenGap),
  );
  const tokens = tokenBuckets(maxModelLen);
  return {
    firstToken: histogram('vllm:time_to_first_token_seconds', 'Arrival to first token.', firstTokenBuckets),
    tokenGap,
    perToken: histogram('vllm:request_time_per_output_token_seconds', 'Mean gap between tokens of an answer.', tokenGapBuckets),
    total: histogram('vllm:e2e_request_latency_seconds', 'Arrival to last token.', latencyBuckets),
    queue: histogram('vllm:request_queue_time_seconds', 'Arrival to first step.', latencyBuckets),
    inference: histogram('vllm:request_inference_time_seconds', 'First step to last token.', latencyBuckets),
    prefill: histogram('vllm:request_prefill_time_seconds', 'First step to first token.', latencyBuckets),
    decode: histogram('vllm:request_decode_time_seconds', 'First token to last.', latencyBuckets),
    promptTokens: histogram('vllm:request_prompt_tokens', 'Prompt tokens of a request.', tokens),
    generatedTokens: histogram('vllm:request_generation_tokens', 'Tokens generated for a choice.', tokens),
    computedTokens: histogram('vllm:request_prefill_kv_computed_tokens', 'Prompt tokens computed, cached ones left out.', tokens),
    maxGenerated: histogram('vllm:request_max_num_generation_tokens', 'Tokens of the longest choice of a request.', tokens),
    maxTokens: histogram('vllm:request_params_max_tokens', 'max_tokens of requests that give one.', tokens),
    choices: histogram('vllm:request_params_n', 'Choices asked for.', choiceBuckets),
  };
}

/** Times one HTTP request from its engine events. */
export class RequestMeter {
  readonly #histograms: Histograms;
  readonly #start: MeterStart;
  /** By prompt and choice. */
  readonly #lastTokenMs: (number | undefined)[] = [];
  #asked: readonly GenerationRequest[] = [];
  #timing: Timing | undefined;
  #firstTokenMs: number | undefined;
  #promptTokens = 0;
  #cachedTokens = 0;
  #completionTokens = 0;
  #longest = 0;
  #choices = 0;
  #reasons: string[] = [];

  constructor(histograms: Histograms, start: MeterStart) {
    this.#histograms = histograms;
    this.#start = start;
  }

  /** What the request asks the engine for. */
  asked(requests: readonly GenerationRequest[]): void {
    this.#asked = requests;
    this.#choices = requests.reduce((sum, { n }) => sum + n, 0);
  }

  /** The engine computes it; what is refused would only blur the picture. */
  accepted(): void {
    this.#histograms.choices.observe(this.#choices);
    const maxTokens = this.#asked[0]?.maxTokens;
    if (maxTokens !== undefined) this.#histograms.maxTokens.observe(maxTokens);
  }

  /** Events of the request's prompt number `prompt`. */
  batch(prompt: number, events: readonly GenerationEvent[]): void {
    for (const event of events) {
      if (event.kind === 'prompt') this.#prompt(event);
      if (event.kind === 'tokens') this.#tokens(prompt * this.#choices + event.choice, event.ids.length);
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

  /** What a trace tells of the request. */
  traced(): Omit<TracedRequest, 'requestId' | 'route' | 'model' | 'status'> {
    return {
      asked: this.#asked,
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens,
      finishReasons: this.#reasons,
      arrivedAtMs: this.#start.arrivedAtMs,
      endedAtMs: performance.now(),
      firstTokenAtMs: this.#firstTokenMs,
      timing: this.#timing,
    };
  }

  #prompt(event: GenerationEvent & { kind: 'prompt' }): void {
    if (event.choice !== 0) return;
    this.#promptTokens += event.tokens.length;
    this.#cachedTokens += event.cachedTokens;
    this.#histograms.computedTokens.observe(event.tokens.length - event.cachedTokens);
    this.#histograms.promptTokens.observe(event.tokens.length);
  }

  /** Tokens of one step arrive together and share its gap, so that the sum of an answer's gaps is the time it took. */
  #tokens(choice: number, count: number): void {
    const now = performance.now();
    const last = this.#lastTokenMs[choice];
    this.#lastTokenMs[choice] = now;
    if (last !== undefined && count > 0) this.#histograms.tokenGap.observe((now - last) / 1e3 / count, count);
    if (this.#firstTokenMs !== undefined) return;
    this.#firstTokenMs = now;
    this.#histograms.firstToken.observe((now - this.#start.arrivedAtMs) / 1e3);
  }

  #end(event: GenerationEvent & { kind: 'end' }): void {
    const { timing, usage, reason } = event;
    this.#completionTokens += usage.completionTokens;
    this.#longest = Math.max(this.#longest, usage.completionTokens);
    this.#reasons.push(reason);
    this.#timing = timing;
    if (this.#reasons.length === this.#choices) this.#histograms.maxGenerated.observe(this.#longest);
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
