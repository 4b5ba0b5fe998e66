// SPDX-License-Identifier: MIT
// The pictures of a page of native measurements.

import { all, LAYERS, perSecond, productOperations, shape, WHOLE_LAYERS } from './flash-data.ts';
import type { Decode, KernelTimes, Labels, Prefill, Run } from './flash-data.ts';
import { renderPage } from './plot.ts';
import type { Chart, Series } from './plot.ts';
import { DECODE, PREFILL, TYPICAL_ACCEPTED } from './published.ts';

const colours = ['#a33', '#b35c00', '#8a2b72', '#2b5fab', '#0a7d8c', '#6b7a0b'];
const ticks = [1036, 4491, 17891, 63543, 131072];

function published(list: typeof PREFILL | typeof DECODE): Series[] {
  return list.map(({ engine, hardware, points }, index) => ({
    name: `${engine}: ${hardware}`,
    colour: colours[index % colours.length]!,
    dashed: true,
    points,
  }));
}

/** Ours where all layers ran on their own devices; else, by the model, named so. */
function ours(runs: readonly Run[]): { prefill: Series[]; decode: Series[] } {
  const measured = <T extends Labels>(list: T[]): T[] =>
    list.filter((p) => p.layers_run === WHOLE_LAYERS && !p.alone && p.tp === 2);
  const prefills = all<Prefill>(runs, 'prefill').filter(({ attention }) => attention === 'product');
  const name = (what: string, device: string): string => `twelvex, ${what}: ${device}, TP 2`;
  const prefill: Series[] = [];
  const decode: Series[] = [];
  for (const mtp of [0, 2]) {
    const p = measured(prefills).filter((x) => x.mtp === mtp);
    const d = measured(all<Decode>(runs, 'decode')).filter((x) => x.mtp === mtp);
    const colour = mtp === 0 ? '#0b6b4f' : '#000';
    const byTokens = [...new Map(p.map((x) => [x.tokens, x])).values()].sort((a, b) => a.tokens - b.tokens);
    if (byTokens.length > 0) {
      const points = byTokens.map((x) => [x.tokens, perSecond(x.tokens, x.ms)] as const);
      prefill.push({ name: name(`MTP ${mtp}`, `2x ${byTokens[0]!.device.replace('NVIDIA ', '')}`), colour, points });
    }
    const byStreams = [...new Map(d.map((x) => [x.streams, x])).values()].sort((a, b) => a.streams - b.streams);
    if (byStreams.length > 0) {
      const accepted = mtp === 0 ? 1 : TYPICAL_ACCEPTED;
      const points = byStreams.map((x) => [x.streams, perSecond(x.streams * accepted, x.ms)] as const);
      const what = mtp === 0 ? 'no drafts' : `MTP 2, were ${TYPICAL_ACCEPTED} tokens accepted a step`;
      decode.push({ name: name(what, `2x ${byStreams[0]!.device.replace('NVIDIA ', '')}`), colour, points });
    }
  }
  return { prefill, decode };
}

/** The pull request's kernels in the whole prefill, by the model where layers were cut. */
function kernelComparison(runs: readonly Run[]): Chart {
  const named = { 'one-head': 'one head a block, FMA', 'eight-heads': 'eight heads a block, FMA', product: 'the product kernel' };
  const series = Object.entries(named).map(([attention, name], index): Series => {
    const found = all<Prefill>(runs, 'prefill').filter((p) => p.attention === attention && p.run.startsWith('ab'));
    const points = found.map((p) => [p.tokens, perSecond(p.tokens, p.whole_ms)] as const);
    return { name, colour: ['#a33', '#b35c00', '#0b6b4f'][index]!, points };
  });
  return {
    kind: 'lines',
    title: 'Whole prefill with each attention kernel (one rank of TP 2, H200, model of 43 layers)',
    xName: 'prompt tokens',
    yName: 'prompt tok/s',
    xTicks: ticks.slice(0, 4),
    series: series.filter(({ points }) => points.length > 0),
  };
}

/** The same kernels outside of a model. */
function kernelsAlone(runs: readonly Run[]): Chart {
  const times = all<KernelTimes>(runs, 'kernel');
  const kernels = [
    ['one_head_us', 'one head a block, FMA', '#a33'],
    ['eight_heads_us', 'eight heads a block, FMA', '#b35c00'],
    ['product_us', 'the product kernel', '#0b6b4f'],
  ] as const;
  const series = ['csa', 'hca'].flatMap((layer) =>
    kernels.map(([field, name, colour]): Series => {
      const here = times.filter((t) => t.layer === layer);
      const points = here.map((t) => [t.prompt, t.flops / t[field] / 1e6] as const);
      return { name: `${name}, ${layer} layer`, colour, dashed: layer === 'hca', points };
    }),
  );
  return {
    kind: 'lines',
    title: 'Prefill attention alone (32 heads, 2,048 tokens at most, H200)',
    xName: 'prompt tokens',
    yName: 'TFLOP/s',
    xTicks: ticks.slice(0, 4),
    logY: true,
    series: series.filter(({ points }) => points.length > 0),
  };
}

function layerBars(run: Run, task: string): Chart | undefined {
  const here = productOperations(run).filter((o) => o.task === task);
  if (here.length === 0) return undefined;
  const bars = LAYERS.slice(0, 4)
    .map((layer) => ({
      label: layer,
      parts: here.filter((o) => o.layer === layer).map(({ op, us }) => ({ name: op, value: us })),
    }))
    .filter(({ parts }) => parts.length > 0);
  return { kind: 'bars', title: `${task}, ${shape(here[0]!)} (${run.name})`, yName: 'us a layer', bars };
}

/** Speeds beside published ones, and where the time of a layer goes. */
export function renderPictures(runs: readonly Run[]): { speeds: string; layers?: string } {
  const { prefill, decode } = ours(runs);
  const speeds: Chart[] = [
    {
      kind: 'lines',
      title: 'Prefill',
      xName: 'prompt tokens',
      yName: 'prompt tok/s',
      xTicks: ticks,
      series: [...prefill, ...published(PREFILL)],
    },
    {
      kind: 'lines',
      title: 'Decode',
      xName: 'streams',
      yName: 'tok/s, all streams',
      xTicks: [1, 2, 4, 8, 16, 32, 64],
      logY: true,
      series: [...decode, ...published(DECODE)],
    },
    kernelComparison(runs),
    kernelsAlone(runs),
  ];
  const shown = speeds.filter((chart) => chart.kind === 'bars' || chart.series.length > 0);
  const page = renderPage('DeepSeek-V4-Flash: different hardware, see the labels', shown);
  const shownRuns = runs.filter(({ name }) => name === 'layers' || name === 'flash');
  const tasks = shownRuns.flatMap((run) =>
    [...new Set(productOperations(run).map(({ task }) => task))].map((task) => [run, task] as const),
  );
  const bars = tasks.filter(([, task]) => !task.startsWith('prefill')).flatMap(([run, task]) => layerBars(run, task) ?? []);
  return bars.length > 0 ? { speeds: page, layers: renderPage('Time of a layer by operation', bars) } : { speeds: page };
}
