// SPDX-License-Identifier: MIT
// What an answer has to look like: response_format, vLLM's structured_outputs, and the older guided_* fields.

import { member, parseMember, sourceText } from '../../engine/index.ts';
import type { ChatInput, GenerationRequest, GrammarSpec, JsonNode, JsonText } from '../../engine/index.ts';
import { invalid, unsupported } from '../errors.ts';
import type { ChatCompletionBody } from '../schemas/chat-completions.ts';
import type { CompletionBody } from '../schemas/completions.ts';
import type { JsonBody } from '../schemas/parse.ts';

export type Grammar = NonNullable<GenerationRequest['grammar']>;

/** A format as OpenAI's endpoints name it, wherever its parts stand in the body. */
export interface AnswerFormat {
  type: string;
  /** The schema as the client spelled it. */
  schema?: JsonNode | undefined;
  strict?: boolean | undefined;
  /** The whole format, where it may be a structural tag. */
  node?: JsonNode | undefined;
}

/**
 * @param param path of the format in the body
 * @throws HttpError for an unknown type or a missing schema
 */
export function formatGrammar(format: AnswerFormat, source: JsonBody, param: string): Grammar | undefined {
  switch (format.type) {
    case 'text':
      return undefined;
    case 'json_object':
      return { spec: { kind: 'json-object' }, param };
    case 'json_schema': {
      if (format.schema === undefined) throw invalid(`${param} needs a schema`, param, 'missing_required_parameter');
      return { spec: schemaSpec(format.schema, source, format.strict ?? false), param };
    }
    case 'structural_tag':
      if (format.node === undefined) throw unsupported(`${param}.type`, 'structural tags are not supported here');
      return { spec: tagSpec(format.node, source), param };
    default:
      throw invalid(
        `${param}.type: expected text, json_object, json_schema or structural_tag, got ${JSON.stringify(format.type)}`,
        `${param}.type`,
      );
  }
}

/** What the prompt tells the model about the format, so that it does not have to be forced word by word. */
export function formatPrompt(format: AnswerFormat, source: JsonBody): ChatInput['responseFormat'] {
  if (format.type === 'json_object') return { json: '{"type": "json_object"}' };
  return format.type === 'json_schema' && format.schema !== undefined ? sourceText(source.text, format.schema) : undefined;
}

/** The format of a chat completion; the schema may also stand directly in it, as llama.cpp's clients put it. */
export function responseFormat(body: Pick<ChatCompletionBody, 'response_format'>, source: JsonBody): AnswerFormat | undefined {
  const given = body.response_format;
  if (given === undefined) return undefined;
  if (given.type !== 'json_schema' && given.type !== 'structural_tag' && given.schema === undefined) return { type: given.type };
  const node = parseMember(source.text, 'response_format');
  if (given.type === 'structural_tag') return { type: given.type, node };
  const named = member(node, 'json_schema');
  const schema = member(named, 'schema') ?? member(node, 'schema');
  return { type: given.schema === undefined ? given.type : 'json_schema', schema, strict: given.json_schema?.strict };
}

/** @throws HttpError when several grammars are asked for, or one that makes no sense. */
export function grammarOf(body: ChatCompletionBody | CompletionBody, source: JsonBody): Grammar | undefined {
  const asked: Grammar[] = [];
  const format = responseFormat(body, source);
  const byFormat = format && formatGrammar(format, source, 'response_format');
  if (byFormat !== undefined) asked.push(byFormat);
  asked.push(...structuredOutputs(body, source), ...guided(body, source));
  if (asked.length > 1) {
    throw invalid(
      `an answer can follow one grammar; ${asked.map(({ param }) => param).join(' and ')} were given`,
      asked[1]!.param,
    );
  }
  return asked[0];
}

function structuredOutputs(body: ChatCompletionBody | CompletionBody, source: JsonBody): Grammar[] {
  const given = body.structured_outputs;
  if (given === undefined) return [];
  const written = (given.json ?? given.structural_tag ?? undefined) !== undefined;
  const node = written ? parseMember(source.text, 'structured_outputs') : undefined;
  const specs = specsOf({ ...given, jsonNode: givenMember(node, 'json'), param: 'structured_outputs.' }, source);
  const tag = givenMember(node, 'structural_tag');
  if (tag !== undefined) specs.push({ spec: tagSpec(tag, source), param: 'structured_outputs.structural_tag' });
  if (given.json_object === true) specs.push({ spec: { kind: 'json-object' }, param: 'structured_outputs.json_object' });
  if (specs.length === 0) refuseOtherKinds(source);
  return specs;
}

/** Switches beside a grammar, such as vLLM's disable_fallback, ask for nothing by themselves. */
function refuseOtherKinds({ value }: JsonBody): void {
  const { structured_outputs: given } = value as { structured_outputs: Record<string, unknown> };
  const kind = Object.keys(given).find((key) => typeof given[key] !== 'boolean' && given[key] !== null);
  if (kind === undefined) return;
  const message = `structured_outputs: expected json, json_object, regex, choice, grammar or structural_tag, got ${kind}`;
  throw invalid(message, 'structured_outputs');
}

function guided(body: ChatCompletionBody | CompletionBody, source: JsonBody): Grammar[] {
  const { guided_json: json, guided_regex: regex, guided_choice: choice, guided_grammar: grammar } = body;
  const jsonNode = (json ?? undefined) === undefined ? undefined : parseMember(source.text, 'guided_json');
  return specsOf({ jsonNode, regex, choice, grammar, param: 'guided_' }, source);
}

/** Null is not given. */
function givenMember(node: JsonNode | undefined, key: string): JsonNode | undefined {
  const value = member(node, key);
  return value?.kind === 'null' ? undefined : value;
}

interface GivenGrammars {
  jsonNode: JsonNode | undefined;
  regex?: string | undefined;
  choice?: string[] | undefined;
  grammar?: string | undefined;
  /** What stands before each field's name. */
  param: string;
}

function specsOf({ jsonNode, regex, choice, grammar, param }: GivenGrammars, source: JsonBody): Grammar[] {
  const specs: Grammar[] = [];
  if (jsonNode !== undefined) specs.push({ spec: schemaSpec(jsonNode, source, false), param: `${param}json` });
  if (regex !== undefined) specs.push({ spec: { kind: 'regex', pattern: regex }, param: `${param}regex` });
  if (choice !== undefined) specs.push({ spec: { kind: 'choice', choices: choice }, param: `${param}choice` });
  if (grammar !== undefined) specs.push({ spec: { kind: 'ebnf', grammar }, param: `${param}grammar` });
  return specs;
}

function schemaSpec(node: JsonNode, source: JsonBody, strict: boolean): GrammarSpec {
  return { kind: 'json-schema', schema: writtenJson(node, source), strict };
}

function tagSpec(node: JsonNode, source: JsonBody): GrammarSpec {
  return { kind: 'structural-tag', tag: writtenJson(node, source) };
}

/** JSON given as an object, or as the text of one. */
function writtenJson(node: JsonNode, source: JsonBody): JsonText {
  return node.kind === 'string' ? { json: node.value } : sourceText(source.text, node);
}
