// SPDX-License-Identifier: MIT
// A run as the table people know from `vllm bench serve`, and as an SVG picture.

import { METRICS, METRIC_NAMES, tokensBySecond, valuesOf } from './measure.ts';
import type { Metric, Sample, Summary } from './measure.ts';

const WIDTH = 58;

/** The table, one string with line ends. */
export function renderTable(summary: Summary, options: { requestRate: number; maxConcurrency?: number | undefined }): string {
  const lines = [centre(' Serving Benchmark Result ', '=')];
  const row = (name: string, value: number | string): void => {
    const text = typeof value === 'number' ? (Number.isInteger(value) ? String(value) : value.toFixed(2)) : value;
    lines.push(`${`${name}:`.padEnd(44)}${text.padEnd(WIDTH - 44)}`.trimEnd());
  };
  row('Successful requests', summary.completed);
  row('Failed requests', summary.failed);
  if (options.maxConcurrency !== undefined) row('Maximum request concurrency', options.maxConcurrency);
  if (Number.isFinite(options.requestRate)) row('Request rate configured (RPS)', options.requestRate);
  row('Benchmark duration (s)', summary.durationS.toFixed(2));
  row('Total input tokens', summary.totalInputTokens);
  row('Total cached input tokens', summary.totalCachedTokens);
  row('Total generated tokens', summary.totalOutputTokens);
  row('Request throughput (req/s)', summary.requestThroughput.toFixed(2));
  if (summary.requestGoodput !== undefined) row('Request goodput (req/s)', summary.requestGoodput.toFixed(2));
  row('Output token throughput (tok/s)', summary.outputThroughput.toFixed(2));
  row('Peak output token throughput (tok/s)', summary.peakOutputThroughput.toFixed(2));
  row('Peak concurrent requests', summary.peakConcurrency);
  row('Total token throughput (tok/s)', summary.totalTokenThroughput.toFixed(2));
  for (const metric of METRICS) {
    const { mean, median, percentiles } = summary.metrics[metric];
    lines.push(centre(METRIC_NAMES[metric], '-'));
    row(`Mean ${metric.toUpperCase()} (ms)`, mean.toFixed(2));
    row(`Median ${metric.toUpperCase()} (ms)`, median.toFixed(2));
    for (const [percent, value] of Object.entries(percentiles)) row(`P${percent} ${metric.toUpperCase()} (ms)`, value.toFixed(2));
  }
  lines.push('='.repeat(WIDTH));
  return `${lines.join('\n')}\n`;
}

function centre(text: string, fill: string): string {
  const left = Math.floor((WIDTH - text.length) / 2);
  return fill.repeat(left) + text + fill.repeat(WIDTH - left - text.length);
}

interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

const INK = '#333';
const COLOURS: Record<Metric, string> = { ttft: '#0b6b4f', tpot: '#b35c00', itl: '#2b5fab', e2el: '#8a2b72' };

/** Output tokens by second, and the cumulative distribution of each latency. Plain SVG, no scripts. */
export function renderPlot(samples: readonly Sample[], title: string): string {
  const good = samples.filter((sample) => sample.ok);
  const parts = [
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 560" font-family="system-ui, sans-serif" font-size="12">',
    '<rect width="900" height="560" fill="#fff"/>',
    `<text x="450" y="24" text-anchor="middle" font-size="15" fill="${INK}">${escape(title)}</text>`,
    bars({ x: 60, y: 50, width: 810, height: 190 }, tokensBySecond(good)),
    ...METRICS.map((metric, index) =>
      cumulative({ x: 60 + index * 212, y: 300, width: 172, height: 200 }, metric, valuesOf(metric, good)),
    ),
    '</svg>',
  ];
  return parts.join('\n');
}

function bars(box: Box, values: readonly number[]): string {
  const most = Math.max(1, ...values);
  const width = box.width / Math.max(1, values.length);
  const rects = values.map((value, index) => {
    const height = (box.height * value) / most;
    const place = `x="${round(box.x + index * width)}" y="${round(box.y + box.height - height)}"`;
    return `<rect ${place} width="${round(Math.max(0.5, width - 1))}" height="${round(height)}" fill="#2b5fab"/>`;
  });
  return [
    frame(box, 'output tokens by second', `${values.length} s`),
    ...rects,
    label(box.x - 6, box.y + 10, most.toFixed(0), 'end'),
  ].join('\n');
}

function cumulative(box: Box, metric: Metric, values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const most = sorted.at(-1) ?? 1;
  const step = Math.max(1, Math.floor(sorted.length / 200));
  const points = sorted
    .map((value, index) => [value, (index + 1) / sorted.length] as const)
    .filter((_, index) => index % step === 0 || index === sorted.length - 1)
    .map(([value, share]) => `${round(box.x + (box.width * value) / (most || 1))},${round(box.y + box.height * (1 - share))}`);
  const line = `<polyline fill="none" stroke="${COLOURS[metric]}" stroke-width="2" points="${points.join(' ')}"/>`;
  return [frame(box, `${metric.toUpperCase()} (ms), share of requests`, most.toFixed(1)), line].join('\n');
}

function frame(box: Box, title: string, end: string): string {
  const { x, y, width, height } = box;
  return [
    `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="none" stroke="#ccc"/>`,
    label(x + width / 2, y - 8, title, 'middle'),
    label(x, y + height + 16, '0', 'start'),
    label(x + width, y + height + 16, end, 'end'),
  ].join('\n');
}

function label(x: number, y: number, text: string, anchor: string): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" fill="${INK}">${escape(text)}</text>`;
}

const round = (value: number): string => value.toFixed(1);
const escape = (text: string): string => text.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);
