// SPDX-License-Identifier: MIT
// Tool calls in DSML as EBNF. Strict and forced calls can only be well formed, with arguments valid for the schema.

import { member, parseLossless, type JsonNode, type JsonText } from '../json-text.ts';
import { EngineError } from '../../errors.ts';
import { character, complement, intersect, TEXT, type Range } from './characters.ts';
import { alternatives, grammarError, literal, MAX_LEAST_COUNT, optional, repeat, sequence, type EbnfBuilder } from './ebnf.ts';
import { freeText } from './free-text.ts';
import { anyValue, SchemaGrammar } from './json-schema.ts';
import { patternWithin, regexExpression } from './regex.ts';
import { checkedType, SchemaView } from './schema-view.ts';
import { formatPattern } from './strings.ts';

export interface ToolGrammar {
  kind: 'tool-calls';
  tools: readonly ToolRule[];
  /**
   * Where the grammar begins: 'text' before any call, which may never come; 'block' behind the forced opening of the
   * block; 'call' behind the forced opening of a call of the first tool.
   */
  start: 'text' | 'block' | 'call';
  parallel: boolean;
}

export interface ToolRule {
  /** `function` object. */
  tool: JsonText;
  strict: boolean;
}

/** The control token ｜DSML｜ in a grammar: no JSON text and no tool argument can contain this character. */
const DSML = '"\\e"';
const QUOTE: Range = [0x22, 0x22];
const NEWLINE: Range = [0x0a, 0x0a];
const OPEN = sequence('"<"', DSML);
const CLOSE = sequence('"</"', DSML);

/** @param answer rule for what may stand instead of calls; absent: with start 'text' any text may stand before them */
export function toolCallsExpression(builder: EbnfBuilder, spec: ToolGrammar, answer?: string): string {
  const calls = spec.tools.map((rule) => invocation(builder, rule));
  const [first] = calls;
  if (first === undefined) throw grammarError('a tool grammar needs tools');
  const anyCall = builder.rule(alternatives(calls.map(({ opening, rest }) => sequence(opening, rest))));
  const more = spec.parallel ? repeat(sequence('"\\n"', anyCall), 0, Infinity) : '""';
  const end = sequence(more, '"\\n"', CLOSE, '"tool_calls>"');
  if (spec.start === 'call') return sequence(first.rest, end);
  if (spec.start === 'block') return sequence(anyCall, end);
  const block = sequence(OPEN, '"tool_calls>\\n"', anyCall, end);
  if (answer !== undefined) return alternatives([answer, sequence('"\\n"{0,2}', block)]);
  return sequence(freeText(builder), optional(block));
}

/** Opening tag of a call, and everything behind it. */
function invocation(builder: EbnfBuilder, { tool, strict }: ToolRule): { opening: string; rest: string } {
  const node = parseLossless(tool.json);
  const name = member(node, 'name');
  if (name?.kind !== 'string') throw grammarError('a tool has no name');
  const schema = member(node, 'parameters');
  const opening = sequence(OPEN, literal(`invoke name="${name.value}">\n`));
  return { opening, rest: builder.rule(sequence(knownParameters(builder, schema, strict), CLOSE, '"invoke>"')) };
}

/** A schema that no grammar can be made of leaves the parameters free, unless the tool is strict. */
function knownParameters(builder: EbnfBuilder, schema: JsonNode | undefined, strict: boolean): string {
  try {
    return parameters(builder, schema, strict);
  } catch (error) {
    if (strict || !(error instanceof EngineError)) throw error;
    const name = character(intersect(TEXT, complement([QUOTE, NEWLINE]))) as string;
    const forms = alternatives([sequence(literal('true">'), freeText(builder)), sequence(literal('false">'), anyValue(builder))]);
    const opening = sequence(OPEN, literal('parameter name="'), repeat(name, 1, Infinity), literal('" string="'));
    return alternatives(['"\\n"', repeat(builder.rule(sequence(opening, forms, CLOSE, '"parameter>\\n"')), 1, Infinity)]);
  }
}

function parameters(builder: EbnfBuilder, schema: JsonNode | undefined, strict: boolean): string {
  if (schema === undefined) return '"\\n"';
  const grammar = new SchemaGrammar(builder, schema, strict);
  const properties = new SchemaView(schema, '#', schema, strict).properties();
  const list = properties.map(({ name, schema: node, required }) => {
    const text = builder.rule(parameter(builder, grammar, { name, node, root: schema, strict }));
    return required ? text : optional(text);
  });
  if (properties.some(({ required }) => required)) return sequence(...list);
  return optional(alternatives(['"\\n"', sequence(...list)]));
}

interface ParameterRule {
  name: string;
  node: JsonNode;
  root: JsonNode;
  strict: boolean;
}

/** Strings are written raw, everything else as JSON. */
function parameter(builder: EbnfBuilder, grammar: SchemaGrammar, rule: ParameterRule): string {
  const path = `#/properties/${rule.name}`;
  const forms: string[] = [];
  const strings = stringForm(builder, rule, path);
  if (strings.raw !== undefined) forms.push(sequence(literal('true">'), strings.raw));
  if (!strings.only)
    forms.push(
      sequence(literal('false">'), rule.node.kind === 'boolean' ? anyValue(builder) : grammar.expression(rule.node, path)),
    );
  const opening = sequence(OPEN, literal(`parameter name="${rule.name}" string="`));
  return sequence(opening, alternatives(forms), CLOSE, '"parameter>\\n"');
}

/** The raw form of a parameter, if it can be a string; `only`: it can be nothing else. */
function stringForm(builder: EbnfBuilder, { node, root, strict }: ParameterRule, path: string): { raw?: string; only: boolean } {
  if (node.kind === 'boolean') return { raw: freeText(builder), only: false };
  const view = new SchemaView(node, path, root, strict);
  if (view.reference !== undefined || view.branches() !== undefined) return { only: false };
  const values = view.values();
  if (values !== undefined) {
    const texts = values.flatMap((value) => (value.kind === 'string' ? [literal(value.value)] : []));
    return texts.length === values.length && texts.length > 0 ? { raw: alternatives(texts), only: true } : { only: false };
  }
  const types = view.types().map((type) => checkedType(type, path));
  if (types.length === 0) return { raw: freeText(builder), only: false };
  if (!types.includes('string')) return { only: false };
  return { raw: rawString(builder, view), only: types.length === 1 };
}

function rawString(builder: EbnfBuilder, view: SchemaView): string {
  const own = view.text('pattern');
  const format = view.text('format');
  const pattern = own ?? (format === undefined ? undefined : formatPattern(format));
  if (format !== undefined && formatPattern(format) === undefined) view.unsupported(`format "${format}"`);
  const min = view.count('minLength') ?? 0;
  const max = view.count('maxLength') ?? Infinity;
  if (min > max || min > MAX_LEAST_COUNT) throw grammarError(`${view.path}: minLength ${min} cannot be met`);
  if (pattern === undefined) return builder.counted(textCharacter(builder), { min, max, written: 0 });
  const anchored = own === undefined;
  const within = patternWithin(pattern, anchored, [min, max]);
  if (within === undefined) view.unsupported('a pattern with lengths');
  return builder.rule(regexExpression(builder, within ?? pattern, { json: false, anchored }));
}

/** Any character but the one that stands for the control token. */
function textCharacter(builder: EbnfBuilder): string {
  return builder.rule(character(TEXT) as string);
}
