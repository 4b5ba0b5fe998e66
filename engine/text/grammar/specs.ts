// SPDX-License-Identifier: MIT

import { EngineError } from '../../errors.ts';
import { JsonSyntaxError, parseLossless, type JsonNode, type JsonText } from '../json-text.ts';
import { alternatives, EbnfBuilder, grammarError, literal } from './ebnf.ts';
import { anyObject, SchemaGrammar } from './json-schema.ts';
import { regexExpression } from './regex.ts';
import { structuralTagExpression } from './structural-tag.ts';
import { toolCallsExpression, type ToolGrammar } from './tool-calls.ts';

/** What a completion has to look like. */
export type GrammarSpec =
  | AnswerGrammar
  /** EBNF of xgrammar with a rule named root. */
  | { kind: 'ebnf'; grammar: string }
  /** Tool calls, instead of the answer if one is given. */
  | (ToolGrammar & { answer?: AnswerGrammar });

/** Grammars of answers that can be combined with tool calls. */
export type AnswerGrammar =
  | { kind: 'json-object' }
  | { kind: 'json-schema'; schema: JsonText; strict: boolean }
  | { kind: 'regex'; pattern: string }
  | { kind: 'choice'; choices: readonly string[] }
  /** Text with tags in it, what is between them as a format says (structural-tag.ts). */
  | { kind: 'structural-tag'; tag: JsonText };

/** A grammar ready to be compiled. */
export interface GrammarSource {
  /** For xgrammar. */
  ebnf: string;
  /** With counts that `ebnf` leaves out; absent when there are none. */
  exact?: string;
  /** Written by the builder, not by a client. */
  own: boolean;
  /** The DSML token stands for the escape character; in other grammars it never matches. */
  markup: boolean;
}

const MAX_SOURCE_UNITS = 256 * 1024;
const MAX_CHOICES = 1000;

/** Text that is the same for the same grammars only. */
export function sourceKey({ ebnf, exact = '', own }: GrammarSource): string {
  return [own, ebnf, exact].join('\0');
}

/**
 * @param param request field that the specification came from
 * @throws EngineError INVALID_REQUEST with that field and the reason
 */
export function grammarSource(spec: GrammarSpec, param: string): GrammarSource {
  try {
    const ebnf = specEbnf(spec, new EbnfBuilder({ exact: false }));
    const exact = specEbnf(spec, new EbnfBuilder({ exact: true }));
    if (ebnf.length > MAX_SOURCE_UNITS) throw grammarError(`the grammar is larger than ${MAX_SOURCE_UNITS} characters`);
    const own = spec.kind !== 'ebnf';
    return { ebnf, ...(exact === ebnf ? {} : { exact }), own, markup: spec.kind === 'tool-calls' };
  } catch (error) {
    if (error instanceof EngineError) throw new EngineError(error.code, error.message, { param, ...error.details });
    throw error;
  }
}

function specEbnf(spec: GrammarSpec, builder: EbnfBuilder): string {
  if (spec.kind === 'ebnf') return spec.grammar;
  if (spec.kind !== 'tool-calls') return builder.grammar(answerExpression(spec, builder));
  const answer = spec.answer === undefined ? undefined : builder.rule(answerExpression(spec.answer, builder));
  return builder.grammar(toolCallsExpression(builder, spec, answer));
}

function answerExpression(spec: AnswerGrammar, builder: EbnfBuilder): string {
  switch (spec.kind) {
    case 'json-object':
      return anyObject(builder);
    case 'json-schema': {
      const root = parsed(spec.schema, 'schema');
      return new SchemaGrammar(builder, root, spec.strict).expression(root);
    }
    case 'regex':
      return regexExpression(builder, spec.pattern, { json: false, anchored: true });
    case 'choice':
      if (spec.choices.length === 0) throw grammarError('choice needs at least one text');
      if (spec.choices.length > MAX_CHOICES) throw grammarError(`choice has more than ${MAX_CHOICES} texts`);
      return alternatives(spec.choices.map(literal));
    case 'structural-tag':
      return structuralTagExpression(builder, parsed(spec.tag, 'structural tag'));
  }
}

function parsed({ json }: JsonText, what: string): JsonNode {
  if (json.length > MAX_SOURCE_UNITS) throw grammarError(`the ${what} is larger than ${MAX_SOURCE_UNITS} characters`);
  try {
    return parseLossless(json);
  } catch (error) {
    if (error instanceof JsonSyntaxError) throw grammarError(`the ${what} is not JSON: ${error.message}`);
    throw error;
  }
}
