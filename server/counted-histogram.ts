// SPDX-License-Identifier: MIT
// Histograms that count for themselves. prom-client's take a microsecond and some garbage for a value, which is too much for
// what happens with every token, and cannot show counts that the engine has kept.

import type { Metric } from 'prom-client';

/** counts[i] values are at most bounds[i] and above the bound before; the last count has no bound. */
export interface Counts {
  bounds: readonly number[];
  counts: readonly number[];
  sum: number;
}

export class CountedHistogram implements Counts {
  readonly bounds: readonly number[];
  readonly counts: number[];
  sum = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.counts = new Array<number>(bounds.length + 1).fill(0);
  }

  /** @param times how often the value came */
  observe(value: number, times = 1): void {
    let at = 0;
    while (at < this.bounds.length && value > this.bounds[at]!) at += 1;
    this.counts[at]! += times;
    this.sum += value * times;
  }
}

/** A histogram as prom-client's registry shows it, read when somebody scrapes. */
export function histogramMetric(name: string, help: string, read: () => Counts): Metric {
  const get = async (): Promise<object> => {
    const { bounds, counts, sum } = read();
    let total = 0;
    const buckets = counts.map((count, index) => {
      total += count;
      return { metricName: `${name}_bucket`, labels: { le: bounds[index] ?? '+Inf' }, value: total };
    });
    const values = [...buckets, { metricName: `${name}_sum`, value: sum }, { metricName: `${name}_count`, value: total }];
    return { name, help, type: 'histogram', values };
  };
  // All that the registry asks of a metric.
  return { name, get } as unknown as Metric;
}
