// SPDX-License-Identifier: MIT
// What `bench` measures and how it is summed up, in the words of `vllm bench serve`. Pure.

/** One request as the client saw it; times in milliseconds of one monotonic clock. */
export interface Sample {
  ok: boolean;
  error?: string;
  promptTokens: number;
  cachedTokens: number;
  outputTokens: number;
  startMs: number;
  firstMs: number;
  endMs: number;
  /** Arrival times of chunks with text, the first one included. */
  chunkMs: number[];
}

export const METRICS = ['ttft', 'tpot', 'itl', 'e2el'] as const;
export type Metric = (typeof METRICS)[number];

export const METRIC_NAMES: Record<Metric, string> = {
  ttft: 'Time to First Token',
  tpot: 'Time per Output Token (excl. 1st token)',
  itl: 'Inter-token Latency',
  e2el: 'End-to-end Latency',
};

export interface Distribution {
  mean: number;
  median: number;
  std: number;
  /** By percentile, e.g. { 99: 12.5 }. */
  percentiles: Record<number, number>;
}

export interface Summary {
  completed: number;
  failed: number;
  durationS: number;
  totalInputTokens: number;
  totalCachedTokens: number;
  totalOutputTokens: number;
  requestThroughput: number;
  /** Requests a second that met every goodput limit; absent without limits. */
  requestGoodput?: number;
  outputThroughput: number;
  /** Most output tokens within one second. */
  peakOutputThroughput: number;
  peakConcurrency: number;
  totalTokenThroughput: number;
  metrics: Record<Metric, Distribution>;
}

export type Goodput = Partial<Record<'ttft' | 'tpot' | 'e2el', number>>;

/** Time per output token of a request: the time behind its first token, spread over the other tokens. */
export function timePerToken(sample: Sample): number {
  return sample.outputTokens > 1 ? (sample.endMs - sample.firstMs) / (sample.outputTokens - 1) : 0;
}

/** Values of one metric: one per request, inter-token latencies one per gap between chunks. Milliseconds. */
export function valuesOf(metric: Metric, samples: readonly Sample[]): number[] {
  switch (metric) {
    case 'ttft':
      return samples.map((sample) => sample.firstMs - sample.startMs);
    case 'tpot':
      return samples.filter((sample) => sample.outputTokens > 1).map(timePerToken);
    case 'itl':
      return samples.flatMap((sample) => sample.chunkMs.slice(1).map((time, index) => time - sample.chunkMs[index]!));
    case 'e2el':
      return samples.map((sample) => sample.endMs - sample.startMs);
  }
}

/** Percentile with linear interpolation between ranks, as numpy's default. */
export function percentile(sorted: readonly number[], percent: number): number {
  if (sorted.length === 0) return Number.NaN;
  const rank = ((sorted.length - 1) * percent) / 100;
  const low = Math.floor(rank);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (rank - low);
}

export function distribution(values: readonly number[], percents: readonly number[]): Distribution {
  const sorted = [...values].sort((a, b) => a - b);
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  const variance = sorted.reduce((sum, value) => sum + (value - mean) ** 2, 0) / sorted.length;
  const percentiles = Object.fromEntries(percents.map((percent) => [percent, percentile(sorted, percent)]));
  return { mean, median: percentile(sorted, 50), std: Math.sqrt(variance), percentiles };
}

/** Sums up a run that lasted `durationMs`. */
export function summarise(
  samples: readonly Sample[],
  durationMs: number,
  options: { percents: readonly number[]; goodput: Goodput },
): Summary {
  const good = samples.filter((sample) => sample.ok);
  const sum = (pick: (sample: Sample) => number): number => good.reduce((total, sample) => total + pick(sample), 0);
  const seconds = durationMs / 1000;
  const input = sum((sample) => sample.promptTokens);
  const output = sum((sample) => sample.outputTokens);
  const limits = Object.keys(options.goodput).length > 0;
  return {
    completed: good.length,
    failed: samples.length - good.length,
    durationS: seconds,
    totalInputTokens: input,
    totalCachedTokens: sum((sample) => sample.cachedTokens),
    totalOutputTokens: output,
    requestThroughput: good.length / seconds,
    ...(limits ? { requestGoodput: good.filter((sample) => meets(sample, options.goodput)).length / seconds } : {}),
    outputThroughput: output / seconds,
    peakOutputThroughput: peakRate(good),
    peakConcurrency: peakConcurrency(good),
    totalTokenThroughput: (input + output) / seconds,
    metrics: Object.fromEntries(
      METRICS.map((metric) => [metric, distribution(valuesOf(metric, good), options.percents)]),
    ) as Summary['metrics'],
  };
}

/** Whether a request met every limit (milliseconds). */
export function meets(sample: Sample, goodput: Goodput): boolean {
  return (
    sample.firstMs - sample.startMs <= (goodput.ttft ?? Infinity) &&
    timePerToken(sample) <= (goodput.tpot ?? Infinity) &&
    sample.endMs - sample.startMs <= (goodput.e2el ?? Infinity)
  );
}

/** Output tokens in each whole second from the first request's start; a request's tokens are spread over its chunks. */
export function tokensBySecond(samples: readonly Sample[]): number[] {
  const start = Math.min(...samples.map((sample) => sample.startMs));
  const seconds: number[] = [];
  for (const sample of samples) {
    for (const time of sample.chunkMs) {
      const second = Math.floor((time - start) / 1000);
      seconds[second] = (seconds[second] ?? 0) + sample.outputTokens / sample.chunkMs.length;
    }
  }
  return Array.from(seconds, (tokens) => tokens ?? 0);
}

function peakRate(samples: readonly Sample[]): number {
  return samples.length === 0 ? 0 : Math.max(0, ...tokensBySecond(samples));
}

function peakConcurrency(samples: readonly Sample[]): number {
  const edges = samples.flatMap((sample) => [
    [sample.startMs, 1],
    [sample.endMs, -1],
  ]) as [number, number][];
  edges.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let open = 0;
  return edges.reduce((most, [, change]) => Math.max(most, (open += change)), 0);
}
