// SPDX-License-Identifier: MIT
// Reads test/vectors and turns a vector's request into the encoder's input, by the convention of the vector files: a
// request-level tools or response_format goes to messages[0] when that is a system or developer message, else to an
// empty system message in front.

import type { EncodeOptions } from '../../../../engine/text/message-encoder.ts';
import type { EncoderMessage } from '../../../../engine/text/turns.ts';
import { encodeMessages } from '../../../../engine/text/message-encoder.ts';
import type { EncoderRevision } from '../../../../engine/text/chat-constants.ts';
import { elements, member, parseLossless, pythonJson, sourceText, type JsonNode } from '../../../../engine/text/json-text.ts';
import { readProject } from '../../../helpers/project.ts';
import { promptText, toolFunctions } from '../../../../engine/text/prompt.ts';
import type { ContentPart, JsonText, ToolCall } from '../../../../engine/types.ts';

export interface Vector {
  name: string;
  tags: string[];
  /** The whole line, kept for lossless reading. */
  source: string;
  fields: Record<string, unknown>;
}

export function readVectors(file: string): Vector[] {
  const lines = readProject(`test/vectors/${file}`).trimEnd().split('\n');
  return lines.map((source) => {
    const fields = JSON.parse(source) as Record<string, unknown>;
    return { name: fields['name'] as string, tags: (fields['tags'] as string[] | undefined) ?? [], source, fields };
  });
}

/** The prompt of a vector's request. Throws what the encoder throws. */
export function encodeVector({ source }: Vector, revision: EncoderRevision): string {
  const request = member(parseLossless(source), 'request') as JsonNode;
  const messages = elements(member(request, 'messages')).map((node) => encoderMessage(source, node));
  attach(messages, {
    tools: toolFunctions(source, member(request, 'tools')),
    ...format(source, member(request, 'response_format')),
  });
  const value = (key: string) => scalar(member(request, key));
  const context = member(request, 'context');
  const options = {
    mode: value('thinking_mode'),
    revision,
    ...present('dropThinking', value('drop_thinking')),
    ...present('bos', value('add_default_bos_token')),
    ...present('effort', value('reasoning_effort')),
    ...present('context', context && elements(context).map((node) => encoderMessage(source, node))),
  };
  return promptText(encodeMessages(messages, options as EncodeOptions));
}

function attach(messages: EncoderMessage[], attachments: { tools: JsonText[]; responseFormat?: JsonText }): void {
  if (attachments.tools.length === 0 && attachments.responseFormat === undefined) return;
  const first = messages[0];
  const takes = first !== undefined && (first.role === 'system' || first.role === 'developer');
  if (takes) Object.assign(first, attachments);
  else messages.unshift({ role: 'system', content: '', ...attachments });
}

/** No checks here: what is wrong in a request must be found by the encoder. */
function encoderMessage(source: string, node: JsonNode): EncoderMessage {
  const role = scalar(member(node, 'role'));
  const nullable = role === 'system' || role === 'assistant';
  const content = member(node, 'content');
  return {
    role,
    content: nullable ? (scalar(content) ?? '') : contentOf(content),
    tools: toolFunctions(source, member(node, 'tools')),
    ...format(source, member(node, 'response_format')),
    reasoning: (scalar(member(node, 'reasoning_content')) ?? '') as string,
    toolCalls: elements(member(node, 'tool_calls')).map(toolCall),
    ...present('toolCallId', scalar(member(node, 'tool_call_id'))),
    ...present('task', scalar(member(node, 'task'))),
    ...present('withoutEos', scalar(member(node, 'wo_eos'))),
  } as unknown as EncoderMessage;
}

/** Arguments given as an object are passed on as their JSON text. */
function toolCall(node: JsonNode): ToolCall {
  const inner = member(node, 'function');
  const text = member(inner, 'arguments') as JsonNode;
  return {
    ...present('id', scalar(member(node, 'id'))),
    name: scalar(member(inner, 'name')) as string,
    arguments: text.kind === 'string' ? text.value : pythonJson(text),
  } as ToolCall;
}

function contentOf(node: JsonNode | undefined): unknown {
  if (node?.kind !== 'array') return scalar(node);
  return node.items.map((item): ContentPart => {
    const type = scalar(member(item, 'type')) as string;
    if (type === 'text') return { type, text: scalar(member(item, 'text')) as string };
    return { type: 'other', kind: type };
  });
}

function format(source: string, node: JsonNode | undefined): { responseFormat?: JsonText } {
  return node === undefined ? {} : { responseFormat: sourceText(source, node) };
}

function scalar(node: JsonNode | undefined): unknown {
  return node?.kind === 'string' || node?.kind === 'boolean' ? node.value : undefined;
}

function present<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return (value === undefined ? {} : { [key]: value }) as { [P in K]?: V };
}
