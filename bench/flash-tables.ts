// SPDX-License-Identifier: MIT
// The tables of a page of native measurements, as Markdown.

import { all, LAYERS, of, perSecond, productOperations, shape, WHOLE_LAYERS } from './flash-data.ts';
import type { Decode, Labels, Operation, Prefill, Run } from './flash-data.ts';
import { DECODE, PREFILL, TYPICAL_ACCEPTED } from './published.ts';

const number = (value: number, digits = 0): string =>
  value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** Attention of whole prompts by three kernels, in the whole model. */
function kernelRows(runs: readonly Run[]): string[][] {
  const attend = all<Operation>(runs, 'op').filter(
    ({ op, run, task }) => op === 'attend' && run === 'ab' && task.startsWith('prefill'),
  );
  return attend.map((o) => {
    const product = attend.find((x) => x.task === o.task && x.layer === o.layer && x.attention === 'product')!;
    return [
      number(Number(o.task.split(':')[1])),
      o.layer,
      o.attention,
      number(o.us, 1),
      number(o.flops / o.us / 1e6, 1),
      `${number(o.us / product.us, 1)}x`,
    ];
  });
}

/** A layer's share of a decode step as it is served: what one layer more adds to the step of a graph. */
function addedLayers(runs: readonly Run[]): string[][] {
  const rows: string[][] = [];
  const steps = all<Decode>(runs, 'decode').filter((step) => (step.alone || step.tp === 1) && step.mtp === 0);
  for (const which of new Set(steps.map(({ task, tp }) => `${task} ${tp}`))) {
    const here = steps.filter(({ task, tp }) => `${task} ${tp}` === which).sort((a, b) => a.layers_run - b.layers_run);
    here.slice(1).forEach((step, index) => {
      const before = here[index]!;
      const added = ['swa', 'csa', 'hca'].map((layer) => layersOf(layer, step.layers_run) - layersOf(layer, before.layers_run));
      if (step.layers_run === before.layers_run) return;
      const bytes = added.reduce((sum, count, kind) => sum + count * bytesOf(runs, step, ['swa', 'csa', 'hca'][kind]!), 0);
      const us = (step.ms - before.ms) * 1000;
      rows.push([
        step.task,
        step.tp === 1 ? 'whole' : `half (TP ${step.tp})`,
        `${before.layers_run} to ${step.layers_run}`,
        `${added[0]} swa, ${added[1]} csa, ${added[2]} hca`,
        number(us / (step.layers_run - before.layers_run), 1),
        number(bytes / 1e6 / (step.layers_run - before.layers_run), 1),
        number((bytes / (us * 1e-6) / step.copy) * 100),
      ]);
    });
  }
  return rows;
}

/** Layers of a kind among the first `count` of Flash: two swa, then csa and hca in turns. */
const layersOf = (layer: string, count: number): number =>
  layer === 'swa' ? Math.min(count, 2) : Math.max(0, layer === 'csa' ? Math.ceil((count - 2) / 2) : Math.floor((count - 2) / 2));

function bytesOf(runs: readonly Run[], { task, tp, alone }: Labels, layer: string): number {
  const same = (o: Operation): boolean => o.task === task && o.layer === layer && o.tp === tp && o.alone === alone && o.mtp === 0;
  const run = runs.find((found) => productOperations(found).some(same));
  const here = run === undefined ? [] : productOperations(run).filter((o) => o.task === task && o.layer === layer);
  return here.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Runs whose operations are shown; of the others one sees totals only. */
const detailed = (runs: readonly Run[]): Run[] => runs.filter(({ name }) => !/^(layers-\d|tp1|chunks|ab|prefill)/.test(name));

/** Every kind of layer ran, but not all layers. */
const modelled = (l: Labels): boolean => l.layers_run >= 4 && l.layers_run < WHOLE_LAYERS;

/** Whole models first, then by drafts. */
const byModel = (a: Labels, b: Labels): number => b.layers_run - a.layers_run || a.mtp - b.mtp;

/** Whole prefills with the product's kernels, outside of the A/B. */
const productPrefills = (runs: readonly Run[]): (Prefill & { run: string })[] =>
  all<Prefill>(runs, 'prefill').filter(({ attention, run }) => attention === 'product' && !run.startsWith('ab'));

/** A prompt of which a part may have been skipped for time; its last chunk never is. */
interface Long extends Labels {
  tokens: number;
  skipped: number;
  ms: number;
  before_bytes: number;
  after_bytes: number;
  chunks_ms: number[];
}

/** Every table of a page, by the name that the page gives it. */
export const TABLES: Record<string, (runs: readonly Run[]) => string> = {
  runs: (runs) =>
    table(
      ['run', 'commit', 'command'],
      runs.map(({ name, commit, command }) => [name, commit, `\`${command}\``]),
    ),

  prefill: (runs) =>
    table(
      [
        'prompt',
        'tokens a step',
        'model',
        'MTP',
        'ms (median of three)',
        'first run',
        'tok/s',
        '43 layers by the model, ms',
        'tok/s',
        'run',
      ],
      productPrefills(runs)
        .sort((a, b) => byModel(a, b) || a.step_tokens - b.step_tokens || a.tokens - b.tokens)
        .map((p) => [
          number(p.tokens),
          number(p.step_tokens),
          shape(p),
          String(p.mtp),
          number(p.ms, 1),
          number(p.first_ms, 1),
          number(perSecond(p.tokens, p.ms)),
          p.layers_run === WHOLE_LAYERS ? 'measured' : number(p.whole_ms, 1),
          p.layers_run === WHOLE_LAYERS ? '' : number(perSecond(p.tokens, p.whole_ms)),
          p.run,
        ]),
    ),

  decode: (runs) =>
    table(
      [
        'streams',
        'context',
        'model',
        'MTP',
        'ms a step',
        'steps/s',
        'tokens a row and step',
        'tok/s',
        'ms, 43 layers',
        'tok/s at 1',
        'at 2.38',
        'run',
      ],
      all<Decode>(detailed(runs), 'decode')
        .sort((a, b) => byModel(a, b) || a.streams - b.streams)
        .map((d) => {
          const whole = d.layers_run === WHOLE_LAYERS ? d.ms : d.whole_ms;
          return [
            String(d.streams),
            number(d.context),
            shape(d),
            String(d.mtp),
            number(d.ms, 3),
            number(1000 / d.ms, 1),
            number(d.accepted, 2),
            number(perSecond(d.streams * d.accepted, d.ms), 1),
            number(whole, 2),
            number(perSecond(d.streams, whole), 1),
            d.mtp === 0 ? '' : number(perSecond(d.streams * TYPICAL_ACCEPTED, whole), 1),
            d.run,
          ];
        }),
    ),

  operations: (runs) => detailed(runs).flatMap(operationTables).join('\n\n'),

  marks: (runs) =>
    table(
      [
        'step',
        'layer',
        'us',
        'without attend, us',
        'x its FLOPs at 350 T',
        'and without select, us',
        'x',
        'MB',
        '% of the copy',
        'run',
      ],
      detailed(runs).flatMap(markRows),
    ),

  added: (runs) =>
    table(['step', 'of a layer', 'layers', 'added', 'us a layer', 'MB a layer', '% of the copy'], addedLayers(runs)),

  memory: (runs) => {
    const list = detailed(runs).map((run) => ({ run, rows: of<Labels & { what: string; bytes: number }>(run, 'memory') }));
    const shown = list.filter(({ rows }) => rows.length > 0);
    const kinds = [...new Set(shown.flatMap(({ rows }) => rows.map(({ what }) => what)))].sort();
    const cell = (rows: { what: string; bytes: number }[], what: string): string => {
      const found = rows.find((row) => row.what === what);
      return found === undefined ? '' : number(found.bytes / 1e9, 3);
    };
    const head = shown.map(({ run, rows }) => `${run.name}: ${shape(rows[0]!)}, MTP ${rows[0]!.mtp}`);
    return table(
      ['GB a rank', ...head],
      [
        ...kinds.map((what) => [what, ...shown.map(({ rows }) => cell(rows, what))]),
        ['all', ...shown.map(({ rows }) => number(rows.reduce((sum, { bytes }) => sum + bytes, 0) / 1e9, 3))],
        ['loaded in, s', ...shown.map(({ run }) => number(of<{ seconds: number }>(run, 'load')[0]?.seconds ?? NaN, 1))],
      ],
    );
  },

  model: (runs) => {
    const rows = productPrefills(runs)
      .filter((whole) => whole.layers_run === WHOLE_LAYERS)
      .flatMap((whole) =>
        all<Prefill>(runs, 'prefill')
          .filter((cut) => modelled(cut) && cut.attention === 'product' && cut.step_tokens === whole.step_tokens)
          .filter((cut) => cut.tokens === whole.tokens && cut.mtp === whole.mtp && cut.tp === whole.tp)
          .map((cut) => [
            `prefill ${number(cut.tokens)}, MTP ${cut.mtp}`,
            `${shape(cut)} (${cut.run})`,
            number(cut.whole_ms, 1),
            `${shape(whole)} (${whole.run})`,
            number(whole.ms, 1),
            `${number((cut.whole_ms / whole.ms - 1) * 100, 1)} %`,
          ]),
      );
    const steps = all<Decode>(runs, 'decode').filter((d) => d.layers_run === WHOLE_LAYERS);
    const more = steps.flatMap((whole) =>
      all<Decode>(runs, 'decode')
        .filter((d) => modelled(d) && d.streams === whole.streams && d.context === whole.context)
        .filter((d) => d.mtp === whole.mtp && d.tp === whole.tp)
        .map((cut) => [
          `decode ${cut.streams} at ${number(cut.context)}, MTP ${cut.mtp}`,
          `${shape(cut)} (${cut.run})`,
          number(cut.whole_ms, 2),
          `${shape(whole)} (${whole.run})`,
          number(whole.ms, 2),
          `${number((cut.whole_ms / whole.ms - 1) * 100, 1)} %`,
        ]),
    );
    return table(['', 'model from', 'ms', 'measured', 'ms', 'model is off by'], [...rows, ...more]);
  },

  whole: (runs) => {
    const lines = all<Prefill>(runs, 'prefill').filter(({ run }) => run.startsWith('ab'));
    const product = (tokens: number): number =>
      lines.find((p) => p.tokens === tokens && p.attention === 'product')?.whole_ms ?? NaN;
    return table(
      ['prompt', 'attention', 'layers', 'ms (three runs)', 'median', '43 layers by the model, ms', 'tok/s', 'times the product'],
      lines.map((p) => [
        number(p.tokens),
        p.attention,
        String(p.layers_run),
        p.runs_ms.map((ms) => number(ms, 1)).join(', '),
        number(p.ms, 1),
        number(p.whole_ms, 1),
        number(perSecond(p.tokens, p.whole_ms)),
        `${number(p.whole_ms / product(p.tokens), 2)}x`,
      ]),
    );
  },

  kernels: (runs) => table(['prompt', 'layer', 'attention', 'us a layer', 'TFLOP/s', 'times the product'], kernelRows(runs)),

  published: () =>
    table(
      ['engine', 'hardware', '2026', 'source', 'what', 'tok/s'],
      (
        [
          ['prefill', PREFILL],
          ['decode', DECODE],
        ] as const
      ).flatMap(([what, list]) =>
        list.map(({ engine, hardware, date, source, points }) => [
          engine,
          hardware,
          date,
          source,
          what,
          points.map(([at, rate]) => `${number(rate)} at ${number(at)}${what === 'prefill' ? '' : ' streams'}`).join(', '),
        ]),
      ),
    ),

  long: (runs) =>
    table(
      ['prompt', 'model', 'computed', 's', 'tok/s', 'first chunk, ms', 'last chunk, ms', 'device before, GB', 'after, GB', 'run'],
      all<Long>(runs, 'long').map((l) => [
        number(l.tokens),
        shape(l),
        number(l.tokens - l.skipped),
        number(l.ms / 1000, 1),
        number(perSecond(l.tokens - l.skipped, l.ms)),
        number(l.chunks_ms[0]!, 1),
        number(l.chunks_ms.at(-1)!, 1),
        number(l.before_bytes / 1e9, 2),
        number(l.after_bytes / 1e9, 2),
        l.run,
      ]),
    ),
};

/** Operations down, layer kinds across: microseconds a layer and, in brackets, TFLOP/s (prefill) or GB/s (decode). */
function operationTables(run: Run): string[] {
  const operations = productOperations(run);
  const tasks = [...new Set(operations.map(({ task }) => task))].filter((task) => !task.startsWith('prefill'));
  return tasks.map((task) => {
    const here = operations.filter((o) => o.task === task);
    const layers = LAYERS.filter((layer) => here.some((o) => o.layer === layer));
    const decode = task.startsWith('decode');
    const rate = (o: Operation): string => {
      if (o.us < 0.05) return '-';
      const bytes = number(o.bytes / o.us / 1e3);
      if (decode) return bytes;
      if (o.op === 'all_reduce') return 'beside';
      return o.flops > 0 ? number(o.flops / o.us / 1e6) : `${bytes} GB/s`;
    };
    const cell = (name: string, layer: string): string => {
      const found = here.find((o) => o.op === name && o.layer === layer);
      return found === undefined ? '' : `${number(found.us, 1)} (${rate(found)})`;
    };
    const names = [...new Set(here.map(({ op }) => op))];
    const total = (layer: string): string =>
      number(
        here.filter((o) => o.layer === layer).reduce((sum, { us }) => sum + us, 0),
        1,
      );
    const head = [
      `${task}, ${shape(here[0]!)}, MTP ${here[0]!.mtp} (${run.name}); us (${decode ? 'GB/s' : 'TFLOP/s'})`,
      ...layers,
    ];
    return table(head, [
      ...names.map((name) => [name, ...layers.map((layer) => cell(name, layer))]),
      ['sum', ...layers.map(total)],
    ]);
  });
}

function markRows(run: Run): string[][] {
  const operations = productOperations(run);
  const rows: string[][] = [];
  for (const task of new Set(operations.map((o) => o.task))) {
    if (task.startsWith('prefill')) continue;
    const decode = task.startsWith('decode');
    for (const layer of ['swa', 'csa', 'hca']) {
      const here = operations.filter((o) => o.task === task && o.layer === layer);
      if (here.length === 0) continue;
      const sum = (list: Operation[], field: 'us' | 'flops' | 'bytes'): number => list.reduce((total, o) => total + o[field], 0);
      const beside = here.filter(({ op }) => op !== 'attend');
      const rest = beside.filter(({ op }) => op !== 'select' && !op.startsWith('('));
      const times = (list: Operation[]): number => (sum(list, 'us') * 1e-6 * 350e12) / sum(list, 'flops');
      const share = (sum(here, 'bytes') / (sum(here, 'us') * 1e-6) / here[0]!.copy) * 100;
      rows.push([
        task,
        layer,
        number(sum(here, 'us'), 1),
        ...(decode
          ? ['', '', '', '', number(sum(here, 'bytes') / 1e6, 1), number(share)]
          : [number(sum(beside, 'us'), 1), number(times(beside), 2), number(sum(rest, 'us'), 1), number(times(rest), 2), '', '']),
        run.name,
      ]);
    }
  }
  return rows;
}
