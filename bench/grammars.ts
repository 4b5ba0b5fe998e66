// SPDX-License-Identifier: MIT
// What grammars cost at a vocabulary of the models' size: node dist/bench/grammars.js [--vocabulary 129280] [--json]

import { parseArgs } from 'node:util';
import { GrammarService } from '../engine/text/grammar/service.ts';
import type { GrammarSpec } from '../engine/text/grammar/specs.ts';

const { values } = parseArgs({
  options: { vocabulary: { type: 'string', default: '129280' }, json: { type: 'boolean', default: false } },
});

const TEXT = 'The lamentable constant in the eternal comedy of nations, revered by all. ';
const record = {
  type: 'object',
  properties: {
    a: { type: 'string' },
    b: {
      type: 'array',
      items: { type: 'object', properties: { x: { type: 'number' }, y: { type: 'string' } }, required: ['x', 'y'] },
    },
  },
  required: ['a', 'b'],
};
const DOCUMENT = `{"a": "${TEXT}", "b": [{"x": 3.25, "y": "${TEXT}"}, {"x": 44, "y": "${TEXT}"}]}`;

const json = (schema: object): GrammarSpec => ({
  kind: 'json-schema',
  schema: { json: JSON.stringify(schema) },
  strict: true,
});
const string = (limits: object): GrammarSpec => json({ type: 'string', ...limits });
const list = (limits: object): GrammarSpec => json({ type: 'array', items: { type: 'integer' }, ...limits });

interface Case {
  name: string;
  spec: GrammarSpec;
  /** What the model writes. */
  text: string;
  maxTokens?: number;
}

const counted = Array.from({ length: 20 }, (_, i) => [`k${i}`, { type: 'string', maxLength: 50 + i }]);
const CASES: Case[] = [
  { name: 'object', spec: json(record), text: DOCUMENT },
  { name: 'object, end of max_tokens near', spec: json(record), text: DOCUMENT, maxTokens: 200 },
  { name: 'maxLength 20', spec: string({ maxLength: 20 }), text: `"${TEXT.slice(0, 20)}"` },
  { name: 'maxLength 100', spec: string({ maxLength: 100 }), text: `"${TEXT}"` },
  { name: 'maxLength 2000', spec: string({ maxLength: 2000 }), text: `"${TEXT.repeat(4)}"` },
  { name: 'minLength 290', spec: string({ minLength: 290 }), text: `"${TEXT.repeat(4)}"` },
  {
    name: '20 strings of 50 to 69',
    spec: json({ type: 'object', properties: Object.fromEntries(counted) }),
    text: '{"k0": "x"}',
  },
  { name: 'exactly 500 integers', spec: list({ minItems: 500, maxItems: 500 }), text: '[1, 2, 3, 44' },
  { name: '2000 objects', spec: json({ type: 'array', items: record, maxItems: 2000 }), text: `[${DOCUMENT}]` },
  { name: 'email', spec: string({ format: 'email' }), text: '"lamentable@constant.er"' },
  { name: 'pattern ^.{1,500}$', spec: string({ pattern: '^.{1,500}$' }), text: `"${TEXT}"` },
  { name: 'regex [a-z]{1,2000}', spec: { kind: 'regex', pattern: '[a-z]{1,2000}' }, text: 'lamentableconstant' },
  { name: 'regex .{0,200}', spec: { kind: 'regex', pattern: '.{0,200}' }, text: TEXT },
  { name: 'regex (\\w+\\s?){1,50}', spec: { kind: 'regex', pattern: '(\\w+\\s?){1,50}' }, text: 'The lamentable constant' },
];

/** Byte-level tokens like those of a real vocabulary: bytes, numbers, words of syllables, punctuation of JSON, ideographs. */
function syntheticTokens(count: number): string[] {
  const tokens = new Set(Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte)));
  for (let i = 2; i <= 128; i++) tokens.add(' '.repeat(i));
  for (let i = 0; i < 1000; i++) tokens.add(String(i));
  for (const text of '{" ": ": " ", " ", }, "} "] [] {} "," ":[" :{" "},{" ]} }} "]} }, ]} \n\n'.split(' ')) tokens.add(text);
  const syllables = 'an er in on re th he st ing tion al or is en at ed ou to it es ar nd as le ri ne ic co me de pro ment'.split(
    ' ',
  );
  let seed = 12345;
  const random = (n: number): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
  while (tokens.size < count * 0.78) {
    const word = Array.from({ length: 1 + random(4) }, () => syllables[random(syllables.length)]).join('');
    const ends = random(200) === 0 ? (['(', '",', '":', '>', '.'][random(5)] as string) : '';
    tokens.add(['', ' ', ' ', ' ', '_', '/'][random(6)] + word + ends);
  }
  while (tokens.size < count) {
    const text = Array.from({ length: 1 + random(3) }, () => String.fromCodePoint(0x4e00 + random(0x3000))).join('');
    tokens.add(Buffer.from(text).toString('latin1'));
  }
  return [...tokens];
}

class Bench {
  readonly #tokens: string[];
  readonly #ids: Map<string, number>;
  readonly #service: GrammarService;

  constructor(vocabSize: number) {
    // The last two are the end token and the one for tool calls.
    this.#tokens = syntheticTokens(vocabSize - 2);
    this.#ids = new Map(this.#tokens.map((token, id) => [token, id]));
    const eosToken = this.#tokens.length;
    const tokenizer = {
      vocabSize,
      eosToken,
      isControl: (id: number) => id >= eosToken,
      controlId: () => eosToken + 1,
      tokenBytes: (id: number) => Buffer.from(this.#tokens[id] ?? '', 'latin1'),
    };
    this.#service = new GrammarService({ tokenizer, vocabSize, timeLimitMs: 60_000 });
  }

  /** The first grammar also prepares the vocabulary in both threads. */
  async prepare(): Promise<void> {
    this.#service.release(await this.#service.open(await this.#service.compile({ kind: 'choice', choices: ['a'] }, 'bench')));
  }

  async measure({ name, spec, text, maxTokens }: Case): Promise<Record<string, string | number>> {
    const start = performance.now();
    const grammar = await this.#service.compile(spec, 'bench');
    const compileMs = performance.now() - start;
    const matcher = await this.#service.open(grammar, maxTokens === undefined ? {} : { maxTokens });
    const openMs = performance.now() - start - compileMs;
    const times: number[] = [];
    for (const accepted of [[], ...this.#encode(text).map((id) => [id])]) {
      const before = performance.now();
      const { failed } = await this.#service.step([{ matcher, accepted, drafts: [] }]);
      times.push(performance.now() - before);
      if (failed.length > 0) throw new Error(`${name}: the text does not fit its grammar`);
    }
    this.#service.release(matcher);
    times.sort((a, b) => a - b);
    const meanMs = times.reduce((sum, time) => sum + time, 0) / times.length;
    const [compile, open, mean, most] = [compileMs, openMs, meanMs, times.at(-1) as number].map((ms) => Number(ms.toFixed(2)));
    return { grammar: name, 'compile ms': compile!, 'open ms': open!, 'mask ms, mean': mean!, 'mask ms, most': most! };
  }

  close(): Promise<void> {
    return this.#service.close();
  }

  /** Longest tokens first. */
  #encode(text: string): number[] {
    const ids: number[] = [];
    for (let at = 0; at < text.length;) {
      let length = Math.min(64, text.length - at);
      while (!this.#ids.has(text.slice(at, at + length))) length--;
      ids.push(this.#ids.get(text.slice(at, at + length)) as number);
      at += length;
    }
    return ids;
  }
}

const bench = new Bench(Number(values.vocabulary));
await bench.prepare();
const rows = [];
for (const one of CASES) rows.push(await bench.measure(one));
await bench.close();
if (values.json) console.log(JSON.stringify(rows));
else console.table(Object.fromEntries(rows.map(({ grammar, ...figures }) => [grammar, figures])));
