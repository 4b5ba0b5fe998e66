// SPDX-License-Identifier: MIT
// From the body of POST /v1/responses to the engine's protocol-free input.

import { GREEDY, member, parseMember } from '../../engine/index.ts';
import type { ChatInput, ChatMessage, ContentPart, SamplingOptions } from '../../engine/index.ts';
import { unsupported } from '../errors.ts';
import type { JsonBody } from '../schemas/parse.ts';
import type { RecentItems } from '../recent-items.ts';
import { itemTypes } from '../schemas/responses.ts';
import type { InputItem, ResponsesBody } from '../schemas/responses.ts';
import { unpackReasoning } from '../stream/response-events.ts';
import { effortFor } from './chat-request.ts';
import type { ChatContext } from './chat-request.ts';
import { formatGrammar, formatPrompt } from './grammar-request.ts';
import type { AnswerFormat, Grammar } from './grammar-request.ts';
import { functionTools, modelName, toolChoiceOf } from './response-tools.ts';

type Parts = Exclude<(InputItem & { type: 'message' })['content'], string>;
type AssistantMessage = ChatMessage & { role: 'assistant' };

/**
 * The body with the items that its references mean.
 * @throws HttpError unsupported_parameter for an item that is forgotten, or of a type that is not served.
 */
export function withItems(value: unknown, recent: RecentItems): unknown {
  const input = (value as { input?: unknown } | null | undefined)?.input;
  if (!Array.isArray(input)) return value;
  const items = (input as unknown[]).map((item, index) => {
    const { type, id } = (item ?? {}) as { type?: unknown; id?: unknown };
    if (typeof type !== 'string' || itemTypes.includes(type)) return item;
    if (type !== 'item_reference') {
      const message = `input items of type ${JSON.stringify(type)} are not supported: expected one of ${itemTypes.join(', ')}`;
      throw unsupported(`input[${index}].type`, message);
    }
    const found = recent.get(String(id));
    if (found !== undefined) return found;
    throw unsupported(`input[${index}].id`, `there is no item ${JSON.stringify(id)} here (any more); send the item itself`);
  });
  return { ...(value as object), input: items };
}

/** @throws HttpError naming the field that cannot be served. */
export function responsesInput(body: ResponsesBody, source: JsonBody, context: ChatContext): ChatInput {
  const tools = functionTools(body, source);
  const format = formatOf(body, source);
  const shownFormat = format && formatPrompt(format, source);
  const word = body.reasoning?.effort;
  const thinking = word === undefined ? (context.model.thinking ?? context.config.thinking) : word !== 'none';
  const instructions: ChatMessage[] = body.instructions === undefined ? [] : [{ role: 'system', content: body.instructions }];
  const items: ChatMessage[] = typeof body.input === 'string' ? [{ role: 'user', content: body.input }] : turnsOf(body.input);
  return {
    kind: 'chat',
    messages: [...instructions, ...items],
    thinking,
    ...(tools.length > 0 && { tools }),
    ...(shownFormat !== undefined && { responseFormat: shownFormat }),
    ...(thinking && { effort: effortFor(word, context) }),
    ...toolChoiceOf(body, tools.length > 0),
    ...(body.parallel_tool_calls !== undefined && { parallelToolCalls: body.parallel_tool_calls }),
  };
}

export function responsesSampling(body: ResponsesBody, { info }: ChatContext): SamplingOptions {
  return {
    ...GREEDY,
    temperature: body.temperature ?? info.generationDefaults.temperature,
    topP: body.top_p ?? info.generationDefaults.topP,
  };
}

function formatOf(body: ResponsesBody, source: JsonBody): AnswerFormat | undefined {
  const given = body.text?.format;
  if (given === undefined) return undefined;
  const schema = given.schema === undefined ? undefined : member(member(parseMember(source.text, 'text'), 'format'), 'schema');
  return { type: given.type, schema, strict: given.strict };
}

/** @throws HttpError for a format that cannot be served. */
export function responsesGrammar(body: ResponsesBody, source: JsonBody): Grammar | undefined {
  const format = formatOf(body, source);
  return format && formatGrammar(format, source, 'text.format');
}

/** What an assistant turn consists of, in the order in which the model writes it. */
const stages = { reasoning: 0, message: 1, function_call: 2 };

/** Items that the model wrote one after another become one turn; an item that falls back in their order opens the next. */
function turnsOf(items: readonly InputItem[]): ChatMessage[] {
  const turns: ChatMessage[] = [];
  let open: { turn: AssistantMessage; stage: number } | undefined;
  const assistant = (type: keyof typeof stages): AssistantMessage => {
    const stage = stages[type];
    if (open === undefined || stage < open.stage) {
      open = { turn: { role: 'assistant', content: '' }, stage };
      turns.push(open.turn);
    }
    open.stage = stage;
    return open.turn;
  };
  items.forEach((item, index) => {
    if (item.type === 'reasoning') {
      const text = reasoningOf(item);
      if (text !== undefined) addReasoning(assistant('reasoning'), text);
    } else if (item.type === 'function_call') {
      const turn = assistant('function_call');
      turn.toolCalls = [...(turn.toolCalls ?? []), { id: item.call_id, name: modelName(item), arguments: item.arguments }];
    } else if (item.type === 'message' && item.role === 'assistant') {
      const turn = assistant('message');
      turn.content = joined(turn.content, textOf(item.content, `input[${index}].content`));
    } else {
      open = undefined;
      turns.push(otherTurn(item, index));
    }
  });
  return turns;
}

function otherTurn(item: InputItem & { type: 'message' | 'function_call_output' }, index: number): ChatMessage {
  if (item.type === 'function_call_output') {
    return { role: 'tool', content: resultOf(item.output), toolCallId: item.call_id };
  }
  const role = item.role as Exclude<typeof item.role, 'assistant'>;
  return { role, content: textOf(item.content, `input[${index}].content`) };
}

function addReasoning(turn: AssistantMessage, text: string): void {
  turn.reasoning = joined(turn.reasoning ?? '', text);
}

function joined(before: string, text: string): string {
  return before === '' ? text : `${before}\n\n${text}`;
}

function reasoningOf(item: InputItem & { type: 'reasoning' }): string | undefined {
  if (item.content !== undefined && item.content.length > 0) return item.content.map(({ text }) => text).join('\n\n');
  return item.encrypted_content === undefined ? undefined : unpackReasoning(item.encrypted_content);
}

/** Text parts joined by line ends. @throws HttpError for a part that is not text. */
function textOf(content: string | Parts, param: string): string {
  if (typeof content === 'string') return content;
  return content
    .map((part, index) => {
      if ('text' in part) return part.text;
      if ('refusal' in part) return part.refusal;
      throw unsupported(`${param}[${index}].type`, `this model reads text only, got a part of type ${JSON.stringify(part.type)}`);
    })
    .join('\n');
}

function resultOf(output: string | Parts): string | ContentPart[] {
  if (typeof output === 'string') return output;
  return output.map((part) => ('text' in part ? { type: 'text', text: part.text } : { type: 'other', kind: part.type }));
}
