// SPDX-License-Identifier: MIT
// Pictures of measurements as plain SVG: line charts and stacked bars, several to a page. No scripts, no fonts to fetch.

export interface Series {
  name: string;
  colour: string;
  dashed?: boolean;
  /** Points alone, without a line between them. */
  loose?: boolean;
  points: readonly (readonly [x: number, y: number])[];
}

export interface LineChart {
  kind: 'lines';
  title: string;
  xName: string;
  yName: string;
  /** Ticks of the x axis, which is logarithmic. */
  xTicks: readonly number[];
  logY?: boolean;
  series: readonly Series[];
}

export interface BarChart {
  kind: 'bars';
  title: string;
  yName: string;
  bars: readonly { label: string; parts: readonly { name: string; value: number }[] }[];
}

export type Chart = LineChart | BarChart;

interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

const INK = '#333';
const PALETTE = [
  '#0b6b4f',
  '#b35c00',
  '#2b5fab',
  '#8a2b72',
  '#6b7a0b',
  '#a33',
  '#0a7d8c',
  '#7a5c3a',
  '#555',
  '#c49a00',
  '#4b3fa0',
  '#999',
  '#d48fb3',
  '#8fb3d4',
];
const PANEL = { width: 620, height: 440 };

const round = (value: number): string => value.toFixed(1);
const escape = (text: string): string => text.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const text = (x: number, y: number, content: string, { anchor = 'start', size = 12 } = {}): string =>
  `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" font-size="${size}" fill="${INK}">${escape(content)}</text>`;
const short = (value: number): string =>
  value >= 10_000 ? `${+(value / 1000).toFixed(1)}K` : value >= 10 ? value.toFixed(0) : `${+value.toPrecision(2)}`;

/** Round steps from zero that cover `most`. */
function ticksTo(most: number): number[] {
  const raw = most / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= raw) ?? 10);
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, index) => index * step);
}

/** Powers of ten and their doubles and fives from `least` to `most`. */
function logTicks(least: number, most: number): number[] {
  const ticks: number[] = [];
  for (let power = 10 ** Math.floor(Math.log10(least)); power <= most * 2; power *= 10) {
    for (const factor of [1, 2, 5]) if (factor * power >= least / 2.5 && factor * power <= most * 2.5) ticks.push(factor * power);
  }
  return ticks;
}

function axes(box: Box, chart: Chart, yTicks: readonly number[], yAt: (value: number) => number): string[] {
  return [
    `<rect x="${box.x}" y="${box.y}" width="${box.width}" height="${box.height}" fill="none" stroke="#ccc"/>`,
    text(box.x + box.width / 2, box.y - 22, chart.title, { anchor: 'middle', size: 14 }),
    text(box.x, box.y - 6, chart.yName, { size: 11 }),
    ...yTicks.map((tick) => {
      const y = round(yAt(tick));
      const line = `<line x1="${box.x}" x2="${box.x + box.width}" y1="${y}" y2="${y}" stroke="#eee"/>`;
      return line + text(box.x - 6, yAt(tick) + 4, short(tick), { anchor: 'end' });
    }),
  ];
}

const legendColumns = (names: readonly string[]): number => (names.some((name) => name.length > 24) ? 1 : 3);

/** Names of lines are long: one a row; operations stand in three columns. */
function legend(box: Box, names: readonly string[], mark: (index: number, x: number, y: number) => string): string[] {
  const columns = legendColumns(names);
  return names.flatMap((name, index) => {
    const x = box.x + 8 + (index % columns) * (box.width / columns);
    const y = box.y + box.height + 44 + Math.floor(index / columns) * 16;
    return [mark(index, x, y - 4), text(x + 26, y, name, { anchor: 'start', size: 11 })];
  });
}

function lines(box: Box, chart: LineChart): string[] {
  const values = chart.series.flatMap(({ points }) => points.map(([, y]) => y));
  const ticks = chart.logY ? logTicks(Math.min(...values), Math.max(...values)) : ticksTo(Math.max(...values));
  const scale = chart.logY ? Math.log : (value: number): number => value;
  const [low, high] = [scale(ticks[0]!), scale(ticks.at(-1)!)];
  const yAt = (value: number): number => box.y + box.height * (1 - (scale(value) - low) / (high - low));
  const [left, right] = [Math.log(chart.xTicks[0]!) - 0.2, Math.log(chart.xTicks.at(-1)!) + 0.2];
  const xAt = (value: number): number => box.x + (box.width * (Math.log(value) - left)) / (right - left);
  const parts = axes(box, chart, ticks, yAt);
  for (const tick of chart.xTicks)
    parts.push(text(xAt(tick), box.y + box.height + 14, tick.toLocaleString('en-US'), { anchor: 'middle' }));
  parts.push(text(box.x + box.width / 2, box.y + box.height + 28, chart.xName, { anchor: 'middle' }));
  const dash = (series: Series): string => (series.dashed ? ' stroke-dasharray="5 4"' : '');
  for (const series of chart.series) {
    const at = series.points.map(([x, y]) => `${round(xAt(x))},${round(yAt(y))}`);
    if (!series.loose) {
      parts.push(`<polyline fill="none" stroke="${series.colour}" stroke-width="2"${dash(series)} points="${at.join(' ')}"/>`);
    }
    for (const [x, y] of series.points) {
      parts.push(`<circle cx="${round(xAt(x))}" cy="${round(yAt(y))}" r="3.5" fill="${series.colour}"/>`);
    }
  }
  const names = chart.series.map(({ name }) => name);
  const mark = (index: number, x: number, y: number): string => {
    const series = chart.series[index]!;
    const line = `<line x1="${x}" x2="${x + 20}" y1="${y}" y2="${y}" stroke="${series.colour}" stroke-width="2"${dash(series)}/>`;
    return (series.loose ? '' : line) + `<circle cx="${x + 10}" cy="${y}" r="3" fill="${series.colour}"/>`;
  };
  return [...parts, ...legend(box, names, mark)];
}

function bars(box: Box, chart: BarChart): string[] {
  const names = [...new Set(chart.bars.flatMap(({ parts }) => parts.map(({ name }) => name)))];
  const colour = (name: string): string => PALETTE[names.indexOf(name) % PALETTE.length]!;
  const totals = chart.bars.map(({ parts }) => parts.reduce((sum, { value }) => sum + value, 0));
  const ticks = ticksTo(Math.max(...totals));
  const yAt = (value: number): number => box.y + box.height * (1 - value / ticks.at(-1)!);
  const drawn = axes(box, chart, ticks, yAt);
  const width = box.width / chart.bars.length;
  chart.bars.forEach(({ label, parts }, index) => {
    const x = box.x + width * (index + 0.2);
    let below = 0;
    for (const { name, value } of parts) {
      const place = `x="${round(x)}" y="${round(yAt(below + value))}" width="${round(width * 0.6)}"`;
      drawn.push(`<rect ${place} height="${round(yAt(below) - yAt(below + value))}" fill="${colour(name)}"/>`);
      below += value;
    }
    drawn.push(text(x + width * 0.3, yAt(below) - 4, short(below), { anchor: 'middle', size: 11 }));
    drawn.push(text(x + width * 0.3, box.y + box.height + 14, label, { anchor: 'middle' }));
  });
  const mark = (index: number, x: number, y: number): string =>
    `<rect x="${x}" y="${y - 5}" width="20" height="10" fill="${colour(names[index]!)}"/>`;
  return [...drawn, ...legend(box, names, mark)];
}

/** One page with the charts in two columns. */
export function renderPage(title: string, charts: readonly Chart[]): string {
  const columns = Math.min(2, charts.length);
  const legendRows = (chart: Chart): number => {
    const names =
      chart.kind === 'lines'
        ? chart.series.map(({ name }) => name)
        : [...new Set(chart.bars.flatMap(({ parts }) => parts.map(({ name }) => name)))];
    return Math.ceil(names.length / legendColumns(names));
  };
  const extra = Math.max(...charts.map(legendRows)) * 16;
  const [width, height] = [PANEL.width * columns, (PANEL.height + extra) * Math.ceil(charts.length / columns) + 50];
  const panels = charts.flatMap((chart, index) => {
    const box = {
      x: (index % columns) * PANEL.width + 70,
      y: Math.floor(index / columns) * (PANEL.height + extra) + 100,
      width: PANEL.width - 100,
      height: PANEL.height - 150,
    };
    return chart.kind === 'lines' ? lines(box, chart) : bars(box, chart);
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
      `font-family="system-ui, sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    text(width / 2, 28, title, { anchor: 'middle', size: 16 }),
    ...panels,
    '</svg>\n',
  ].join('\n');
}
