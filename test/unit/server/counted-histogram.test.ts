// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Histogram, Registry } from 'prom-client';
import { CountedHistogram, histogramMetric } from '../../../server/counted-histogram.ts';

test('a histogram that counts for itself reads as one of prom-client', async () => {
  const bounds = [0.01, 0.1, 1];
  const values = [0, 0.01, 0.0100001, 0.5, 1, 7, 7];
  const render = async (fill: (registry: Registry) => void): Promise<string> => {
    const registry = new Registry();
    registry.setDefaultLabels({ model_name: 'm' });
    fill(registry);
    return registry.metrics();
  };
  const own = new CountedHistogram(bounds);
  for (const value of new Set(values)) own.observe(value, values.filter((other) => other === value).length);
  const shown = await render((registry) => registry.registerMetric(histogramMetric('gap_seconds', 'A gap.', () => own)));
  const known = await render((registry) => {
    const histogram = new Histogram({ name: 'gap_seconds', help: 'A gap.', buckets: bounds, registers: [registry] });
    for (const value of values) histogram.observe(value);
  });
  const lines = (text: string): string[] =>
    text.split('\n').map((line) => line.replace(/\{(.*)\}/, (_, labels: string) => labels.split(',').sort().join()));
  assert.deepEqual(lines(shown), lines(known));
});
