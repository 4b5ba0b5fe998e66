// SPDX-License-Identifier: MIT
// From a chat request to its prompt: what the encoder leaves open (several systems, forced calls, a message to continue) is
// decided here.

import { EngineError } from '../errors.ts';
import { atOnce } from '../event-loop.ts';
import type { ChatInput, ChatMessage, FimInput, JsonText } from '../types.ts';
import { ASSISTANT, BOS, DSML, EOS, FIM_BEGIN, FIM_END, FIM_HOLE, THINK_CLOSE, THINK_OPEN } from './chat-constants.ts';
import type { EncoderRevision } from './chat-constants.ts';
import { forcedCall } from './dsml.ts';
import { elements, member, parseLossless, sourceText, type JsonNode } from './json-text.ts';
import { encodeStepwise } from './message-encoder.ts';
import type { TurnReplay } from './turn-replay.ts';
import { SegmentBuilder, segmentsText, type Segment } from './segment.ts';
import type { EncoderMessage } from './turns.ts';

/**
 * Where the completion begins: in the reasoning, at the answer, in an answer that the prompt has begun ('continued'),
 * in a tool block. 'plain' is raw text that is not parsed at all.
 */
export type PromptStart = 'reasoning' | 'answer' | 'continued' | 'tool-calls' | 'plain';

export interface RenderedChat {
  segments: Segment[];
  start: PromptStart;
  /**
   * A forced tool call. With `start` 'tool-calls' the prompt already ends in it and the parser is primed with it; with
   * 'reasoning' it is appended behind the closing think token when the model has closed its reasoning.
   */
  forced?: Segment[];
  /** The tools that were rendered: empty when the choice is none, one when a tool is named. */
  tools: readonly JsonText[];
}

/**
 * @param replay turns to render as they were generated
 * @throws EngineError INVALID_REQUEST with the path of the field at fault
 */
export function renderChat(input: ChatInput, revision: EncoderRevision, replay?: TurnReplay): RenderedChat {
  return atOnce(renderStepwise(input, revision, replay));
}

/** As renderChat, a turn of the conversation a step: those of agents are megabytes long. */
export function* renderStepwise(input: ChatInput, revision: EncoderRevision, replay?: TurnReplay): Generator<void, RenderedChat> {
  if (input.messages.length === 0) throw invalid('messages', 'messages must not be empty');
  const { tools, forced } = chosenTools(input);
  const messages = serverMessages(input.messages, tools, input.responseFormat);
  const encoded = yield* encodeStepwise(messages, {
    mode: input.thinking ? 'thinking' : 'chat',
    revision,
    keepDevelopers: true,
    ...(replay === undefined ? {} : { replay }),
    ...(input.dropThinking === undefined ? {} : { dropThinking: input.dropThinking }),
    ...effortOption(input, revision),
  });
  const segments = opened(encoded, messages, input.thinking);
  const start = promptStart(segments);
  if (forced === undefined) return { segments, start, tools };
  if (start === 'reasoning') return { segments, start, tools, forced };
  const withCall = new SegmentBuilder().append(segments).append(forced).build();
  return { segments: withCall, start: 'tool-calls', tools, forced };
}

/** What comes between two texts, asked for as DeepSeek models are trained: hole and suffix stand before the answer. */
export function renderFim({ prefix, suffix }: Omit<FimInput, 'kind'>): Segment[] {
  const builder = new SegmentBuilder().control(BOS).control(FIM_BEGIN).text(prefix);
  return builder.control(FIM_HOLE).text(suffix).control(FIM_END).build();
}

export function promptText(segments: readonly Segment[]): string {
  return segmentsText(segments);
}

/** Decided from the prompt alone: open reasoning, an open tool block, or the answer. */
export function promptStart(segments: readonly Segment[]): PromptStart {
  const last = segments.findLastIndex(({ kind, text }) => kind === 'control' && (text === THINK_OPEN || text === THINK_CLOSE));
  if (last < 0) return 'answer';
  if (segments[last]?.text === THINK_OPEN) return 'reasoning';
  const behind = segments.slice(last + 1);
  if (behind.length === 0 || behind.some(({ text }) => text === EOS || text === ASSISTANT)) return 'answer';
  const markers = behind.flatMap(({ kind, text }, i) => (kind === 'control' && text === DSML ? [i] : []));
  const block = markers.findLast((i) => behind[i + 1]?.text.startsWith('tool_calls>'));
  return block !== undefined && !behind[block - 1]?.text.endsWith('</') ? 'tool-calls' : 'continued';
}

/** Words the revision does not know but the API does (low on preview) render nothing. */
function effortOption({ effort }: ChatInput, revision: EncoderRevision): { effort?: string } {
  if (effort === undefined || (effort === 'low' && revision === 'preview')) return {};
  return { effort };
}

function chosenTools(input: ChatInput): { tools: readonly JsonText[]; forced?: Segment[] } {
  const choice = input.toolChoice ?? 'auto';
  const own = input.messages.flatMap((message) => ('tools' in message && message.tools) || []);
  const tools = [...own, ...(input.tools ?? [])];
  if (choice === 'none') return { tools: [] };
  if (choice === 'auto') return { tools };
  if (tools.length === 0) throw invalid('tool_choice', 'tool_choice needs tools to choose from');
  if (choice === 'required') return { tools, forced: forcedCall() };
  const named = tools.filter((tool) => toolName(tool) === choice.name);
  if (named.length === 0) throw invalid('tool_choice', `tool_choice names "${choice.name}", which is not among the tools`);
  return { tools: named, forced: forcedCall(choice.name) };
}

/** The name in a tool's `function` object; undefined when it has none. */
export function toolName(tool: JsonText): string | undefined {
  const name = member(parseLossless(tool.json), 'name');
  return name?.kind === 'string' ? name.value : undefined;
}

/**
 * A tool as the hosted API writes it into prompts: name, description and parameters in this order, nothing else (`strict`
 * is for the server). What is no object is left for the encoder to refuse.
 */
function shownTool(tool: JsonText): JsonText {
  const node = parseLossless(tool.json);
  if (node.kind !== 'object') return tool;
  const shown = { name: '""', description: '""', parameters: '{}' };
  for (const key of ['name', 'description', 'parameters'] as const) {
    const value = member(node, key);
    if (value !== undefined && value.kind !== 'null') shown[key] = sourceText(tool.json, value).json;
  }
  return { json: `{"name": ${shown.name}, "description": ${shown.description}, "parameters": ${shown.parameters}}` };
}

/**
 * The `function` objects of an OpenAI tools list, as source text.
 * @param body source the node was parsed from
 * @throws EngineError INVALID_REQUEST naming the element without one.
 */
export function toolFunctions(body: string, tools: JsonNode | undefined): JsonText[] {
  return elements(tools).map((tool, index) => {
    const node = member(tool, 'function');
    if (node?.kind === 'object') return sourceText(body, node);
    throw invalid(`tools[${index}].function`, `tools[${index}] needs a "function" object`);
  });
}

/** Leading systems become one, later ones user turns; tools and response format go to the first turn. */
function serverMessages(
  messages: readonly ChatMessage[],
  tools: readonly JsonText[],
  requestFormat: JsonText | undefined,
): EncoderMessage[] {
  const firstOther = messages.findIndex((message) => message.role !== 'system');
  const leading = firstOther < 0 ? messages.length : firstOther;
  const system = messages.slice(0, leading).map((message) => message.content as string);
  const rest = messages.slice(leading).map((message, index) => encoderMessage(message, messages, leading + index));
  const ownFormat = messages.findLast((message) => 'responseFormat' in message && message.responseFormat !== undefined);
  const responseFormat = requestFormat ?? (ownFormat && 'responseFormat' in ownFormat ? ownFormat.responseFormat : undefined);
  const attachments = { tools: tools.map(shownTool), ...(responseFormat === undefined ? {} : { responseFormat }) };
  const content = system.filter((text) => text !== '').join('\n\n');
  const [first] = rest;
  if (content === '' && first?.role === 'developer') return [{ ...first, ...attachments }, ...rest.slice(1)];
  if (content === '' && tools.length === 0 && responseFormat === undefined) return rest;
  return [{ role: 'system', content, ...attachments }, ...rest];
}

function encoderMessage(message: ChatMessage, all: readonly ChatMessage[], index: number): EncoderMessage {
  const path = `messages[${index}]`;
  switch (message.role) {
    case 'system':
      return { role: 'user', content: message.content, path };
    case 'assistant':
      if (message.prefix && index < all.length - 1) {
        throw invalid(`${path}.prefix`, 'only the last message can be a prefix to continue');
      }
      return {
        role: 'assistant',
        content: message.content,
        reasoning: message.reasoning ?? '',
        toolCalls: message.toolCalls ?? [],
        withoutEos: message.prefix ?? false,
        path,
      };
    case 'tool': {
      const result: EncoderMessage = { role: 'tool', content: message.content, path };
      return message.toolCallId === undefined ? result : { ...result, toolCallId: message.toolCallId };
    }
    default:
      return { role: message.role, content: message.content, path };
  }
}

/** A conversation that ends in no user turn gets the opener that the encoder leaves out. */
function opened(segments: Segment[], messages: readonly EncoderMessage[], thinking: boolean): Segment[] {
  const last = messages.at(-1);
  if (last?.withoutEos || (last !== undefined && ['user', 'developer', 'tool'].includes(last.role))) return segments;
  const open = thinking ? THINK_OPEN : THINK_CLOSE;
  return new SegmentBuilder().append(segments).control(ASSISTANT).control(open).build();
}

function invalid(param: string, message: string): EngineError {
  return new EngineError('INVALID_REQUEST', message, { param });
}
