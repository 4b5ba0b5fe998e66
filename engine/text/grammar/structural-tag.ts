// SPDX-License-Identifier: MIT
// Structural tags as EBNF: text in which what stands between certain tags follows a format, in the words of xgrammar and
// vLLM. The builder's own rules are used instead of xgrammar's, so that the guide knows them too.

import { elements, member, type JsonNode } from '../json-text.ts';
import { alternatives, grammarError, literal, optional, repeat, sequence, type EbnfBuilder } from './ebnf.ts';
import { freeText } from './free-text.ts';
import { SchemaGrammar } from './json-schema.ts';
import { regexExpression } from './regex.ts';

const MAX_DEPTH = 32;

/**
 * Expression of `{"type": "structural_tag", "format": …}`, or of the older form with `structures` and `triggers`.
 * @throws EngineError INVALID_REQUEST naming the place in the tag
 */
export function structuralTagExpression(builder: EbnfBuilder, node: JsonNode): string {
  const structures = member(node, 'structures');
  if (structures !== undefined) return new TagGrammar(builder).structures(node, elements(structures));
  const format = member(node, 'format');
  if (format === undefined) throw grammarError('a structural tag needs a "format", or "structures" and "triggers"');
  return new TagGrammar(builder).expression(format, { path: 'format', until: [], depth: 0 });
}

/** Where a format stands: free text in it ends at the first of the `until` strings. */
interface Place {
  path: string;
  until: readonly string[];
  depth: number;
}

interface Tag {
  begin: string;
  rule: string;
}

class TagGrammar {
  private readonly builder: EbnfBuilder;

  constructor(builder: EbnfBuilder) {
    this.builder = builder;
  }

  structures(node: JsonNode, items: readonly JsonNode[]): string {
    const tags = items.map((item, i) => {
      const path = `structures[${i}]`;
      const schema = member(item, 'schema') ?? { kind: 'boolean', value: true, start: 0, end: 0 };
      return this.tagOf(item, this.builder.rule(this.schema(schema)), path);
    });
    return this.triggered(tags, { triggers: texts(node, 'triggers', 'triggers'), until: [], first: false, once: false });
  }

  expression(node: JsonNode, place: Place): string {
    const { path, until, depth } = place;
    if (depth > MAX_DEPTH) throw grammarError(`${path}: formats are nested deeper than ${MAX_DEPTH}`);
    const type = textOf(node, 'type', path);
    switch (type) {
      case 'const_string':
        return literal(textOf(node, 'value', path));
      case 'json_schema':
        return this.schema(needed(node, 'json_schema', path));
      case 'any_text':
        return freeText(this.builder, until);
      case 'regex':
        return regexExpression(this.builder, textOf(node, 'pattern', path), { json: false, anchored: true });
      case 'sequence':
        return this.sequence(node, place);
      case 'or':
        return alternatives(this.parts(node, 'elements', place, (part, at) => this.builder.rule(this.expression(part, at))));
      case 'tag':
        return this.tag(node, place).rule;
      case 'triggered_tags':
        return this.triggered(this.tags(node, place), {
          triggers: texts(node, 'triggers', `${path}.triggers`),
          until,
          first: isTrue(node, 'at_least_one'),
          once: isTrue(node, 'stop_after_first'),
        });
      case 'tags_with_separator':
        return this.separated(node, place);
      default:
        throw grammarError(`${path}: the format ${JSON.stringify(type)} is not supported`);
    }
  }

  private schema(schema: JsonNode): string {
    return new SchemaGrammar(this.builder, schema, false).expression(schema);
  }

  /** What follows a free text is not known to be its end, unless it is the last part. */
  private sequence(node: JsonNode, place: Place): string {
    const last = elements(member(node, 'elements')).length - 1;
    return sequence(
      ...this.parts(node, 'elements', place, (part, at, i) =>
        this.builder.rule(this.expression(part, i === last ? at : { ...at, until: [] })),
      ),
    );
  }

  private tags(node: JsonNode, place: Place): Tag[] {
    return this.parts(node, 'tags', place, (part, at) => this.tag(part, at));
  }

  private tag(node: JsonNode, place: Place): Tag {
    const { path } = place;
    const ends = endsOf(node, path).filter((end) => end !== '');
    const content = needed(node, 'content', path);
    const at = { path: `${path}.content`, until: ends.length > 0 ? ends : place.until, depth: place.depth + 1 };
    return this.tagOf(node, this.builder.rule(this.expression(content, at)), path);
  }

  private tagOf(node: JsonNode, content: string, path: string): Tag {
    const begin = textOf(node, 'begin', path);
    const end = alternatives(endsOf(node, path).map(literal));
    return { begin, rule: this.builder.rule(sequence(literal(begin), content, end)) };
  }

  /** Text without a trigger, then a tag that begins with one, and so on. With `first` it begins with a tag. */
  private triggered(
    tags: readonly Tag[],
    options: { triggers: readonly string[]; until: readonly string[]; first: boolean; once: boolean },
  ): string {
    const { triggers, until, first, once } = options;
    const stray = tags.find(({ begin }) => !triggers.some((trigger) => trigger !== '' && begin.startsWith(trigger)));
    if (stray !== undefined) throw grammarError(`the tag ${JSON.stringify(stray.begin)} begins with none of the triggers`);
    const tag = this.builder.rule(alternatives(tags.map(({ rule }) => rule)));
    if (first && once) return tag;
    const text = freeText(this.builder, [...new Set([...triggers, ...until])]);
    if (once) return sequence(text, optional(tag));
    return sequence(first ? tag : '', text, repeat(this.builder.rule(sequence(tag, text)), 0, Infinity));
  }

  private separated(node: JsonNode, place: Place): string {
    const tag = this.builder.rule(alternatives(this.tags(node, place).map(({ rule }) => rule)));
    const separator = textOf(node, 'separator', place.path);
    const more = repeat(this.builder.rule(sequence(literal(separator), tag)), 0, Infinity);
    const all = isTrue(node, 'stop_after_first') ? tag : sequence(tag, more);
    return isTrue(node, 'at_least_one') ? all : optional(all);
  }

  private parts<T>(node: JsonNode, key: string, place: Place, read: (part: JsonNode, at: Place, index: number) => T): T[] {
    const list = elements(member(node, key));
    if (list.length === 0) throw grammarError(`${place.path}: "${key}" must be an array that is not empty`);
    return list.map((part, i) => read(part, { ...place, path: `${place.path}.${key}[${i}]`, depth: place.depth + 1 }, i));
  }
}

function needed(node: JsonNode, key: string, path: string): JsonNode {
  const value = member(node, key);
  if (value === undefined) throw grammarError(`${path}: "${key}" is missing`);
  return value;
}

function textOf(node: JsonNode, key: string, path: string): string {
  const value = needed(node, key, path);
  if (value.kind !== 'string') throw grammarError(`${path}: "${key}" must be a string`);
  return value.value;
}

function texts(node: JsonNode, key: string, path: string): string[] {
  const list = elements(member(node, key)).map((item) => (item.kind === 'string' ? item.value : ''));
  if (list.length === 0 || list.includes('')) throw grammarError(`${path} must be an array of strings that are not empty`);
  return list;
}

/** One end, or several of which any will do. */
function endsOf(node: JsonNode, path: string): string[] {
  return member(node, 'end')?.kind === 'array' ? texts(node, 'end', `${path}.end`) : [textOf(node, 'end', path)];
}

function isTrue(node: JsonNode, key: string): boolean {
  const value = member(node, key);
  return value?.kind === 'boolean' && value.value;
}
