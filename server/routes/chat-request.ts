// SPDX-License-Identifier: MIT
// From the body of a chat completion to the engine's protocol-free input.

import { elements, member, parseMember, sourceText, toolFunctions } from '../../engine/index.ts';
import type { ChatInput, ChatMessage, ContentPart, JsonNode, ModelInfo, ToolCall } from '../../engine/index.ts';
import type { Config } from '../config.ts';
import { invalid, unsupported } from '../errors.ts';
import type { RequestedModel } from '../model-names.ts';
import type { ChatCompletionBody, EffortWord } from '../schemas/chat-completions.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { formatPrompt, responseFormat } from './grammar-request.ts';

type Message = ChatCompletionBody['messages'][number];
type Content = Exclude<Message['content'], undefined>;
type Effort = NonNullable<ChatInput['effort']>;

/**
 * Words of clients → what the encoder knows. The first release has no lighter thinking than its normal one; later
 * encoders do. Follows the API reference of the time of each revision.
 */
const efforts: Record<ModelInfo['encoderRevision'], Record<Exclude<EffortWord, 'none'>, Effort>> = {
  preview: { minimal: 'high', low: 'high', medium: 'high', high: 'high', xhigh: 'high', max: 'max', ultra: 'max' },
  '0731': { minimal: 'low', low: 'low', medium: 'high', high: 'high', xhigh: 'high', max: 'max', ultra: 'max' },
};

/** What a request is read against. */
export interface ChatContext {
  config: Config;
  info: ModelInfo;
  model: RequestedModel;
}

/** @throws HttpError naming the field that cannot be served. */
export function chatInput(body: ChatCompletionBody, source: JsonBody, context: ChatContext): ChatInput {
  checkContinuation(body);
  const tools = body.tools === undefined || body.tools.length === 0 ? undefined : checkedTools(body, source);
  const thinking = thinks(body, context);
  const effort = thinking ? effortOf(body, context) : undefined;
  const dropThinking = body.chat_template_kwargs?.drop_thinking;
  const format = responseFormat(body, source);
  const shownFormat = format && formatPrompt(format, source);
  return {
    kind: 'chat',
    messages: messagesOf(body, source),
    thinking,
    ...(tools !== undefined && { tools }),
    ...(shownFormat !== undefined && { responseFormat: shownFormat }),
    ...(effort !== undefined && { effort }),
    ...(dropThinking !== undefined && { dropThinking }),
    ...toolChoiceOf(body, tools !== undefined),
    ...(body.parallel_tool_calls !== undefined && { parallelToolCalls: body.parallel_tool_calls }),
  };
}

/** The flags of vLLM and llama.cpp for continuing the last message; DeepSeek's is on the message itself. */
function checkContinuation({ messages, continue_final_message, add_generation_prompt }: ChatCompletionBody): void {
  if (continue_final_message === true && messages.at(-1)?.role !== 'assistant') {
    throw invalid('continue_final_message needs an assistant message at the end', 'continue_final_message');
  }
  if (add_generation_prompt === false && continue_final_message !== true) {
    throw unsupported('add_generation_prompt', 'add_generation_prompt: false is only allowed with continue_final_message: true');
  }
}

/** Arguments given as objects are rendered as the client spelled them. */
function hasObjectArguments(message: Message): boolean {
  return message.role === 'assistant' && message.tool_calls?.some((call) => typeof call.function.arguments !== 'string') === true;
}

function checkedTools(body: ChatCompletionBody, source: JsonBody): ChatInput['tools'] {
  body.tools?.forEach((tool, index) => {
    if (tool.type !== 'function') throw unsupported(`tools[${index}].type`, `only function tools are served, got ${tool.type}`);
    if (tool.function === undefined) {
      throw invalid(`tools[${index}].function is required`, `tools[${index}].function`, 'missing_required_parameter');
    }
  });
  return toolFunctions(source.text, parseMember(source.text, 'tools'));
}

function toolChoiceOf(body: ChatCompletionBody, hasTools: boolean): Pick<ChatInput, 'toolChoice'> {
  const choice = body.tool_choice;
  if (choice === undefined) return {};
  if (!hasTools && choice !== 'none' && choice !== 'auto') throw invalid('tool_choice needs tools to choose from', 'tool_choice');
  if (typeof choice === 'string') return { toolChoice: choice };
  if (choice.type !== 'function') throw unsupported('tool_choice.type', `tool_choice of type ${choice.type} is not supported`);
  const name = choice.function?.name;
  if (name === undefined) throw invalid('tool_choice.function is required', 'tool_choice.function', 'missing_required_parameter');
  if (!body.tools?.some((tool) => tool.function?.name === name)) {
    throw invalid(
      `tool_choice names the function ${JSON.stringify(name)}, which is not among tools`,
      'tool_choice.function.name',
    );
  }
  return { toolChoice: { name } };
}

/** What is said most explicitly wins: the thinking field, template arguments, effort, the model's name, the server's default. */
function thinks(body: ChatCompletionBody, { config, model }: ChatContext): boolean {
  if (body.thinking !== undefined) return body.thinking.type !== 'disabled';
  const byTemplate = body.chat_template_kwargs?.thinking ?? body.chat_template_kwargs?.enable_thinking;
  if (byTemplate !== undefined) return byTemplate;
  if (body.reasoning?.enabled !== undefined) return body.reasoning.enabled;
  const word = effortWord(body);
  if (word !== undefined) return word !== 'none';
  return model.thinking ?? config.thinking;
}

function effortWord(body: ChatCompletionBody): EffortWord | undefined {
  return body.reasoning_effort ?? body.reasoning?.effort ?? body.chat_template_kwargs?.reasoning_effort;
}

function effortOf(body: ChatCompletionBody, context: ChatContext): Effort {
  return effortFor(effortWord(body), context);
}

/** What the encoder renders for a client's word; the server's default for an absent or unknown one. */
export function effortFor(word: string | undefined, { config, info }: ChatContext): Effort {
  const known: Record<string, Effort> = efforts[info.encoderRevision];
  return known[word ?? config.reasoningEffort] ?? efforts[info.encoderRevision][config.reasoningEffort];
}

function messagesOf(body: ChatCompletionBody, source: JsonBody): ChatMessage[] {
  const nodes = body.messages.some(hasObjectArguments) ? elements(parseMember(source.text, 'messages')) : [];
  const last = body.messages.length - 1;
  return body.messages.map((message, index) => {
    const at = `messages[${index}]`;
    switch (message.role) {
      case 'system':
      case 'developer':
      case 'user':
        return { role: message.role, content: textOf(message.content, `${at}.content`) };
      case 'tool': {
        const toolCallId = message.tool_call_id;
        return { role: 'tool', content: resultOf(message.content), ...(toolCallId !== undefined && { toolCallId }) };
      }
      case 'assistant': {
        const prefix = message.prefix === true || (index === last && body.continue_final_message === true);
        if (prefix && index !== last) throw invalid('only the last message can be continued', `${at}.prefix`);
        return assistantOf(message, { at, node: nodes[index], source, prefix });
      }
    }
  });
}

interface AssistantPlace {
  at: string;
  node: JsonNode | undefined;
  source: JsonBody;
  prefix: boolean;
}

function assistantOf(message: Message & { role: 'assistant' }, { at, node, source, prefix }: AssistantPlace): ChatMessage {
  const reasoning = message.reasoning_content ?? message.reasoning;
  const callNodes = elements(member(node, 'tool_calls'));
  const toolCalls = message.tool_calls?.map((call, index): ToolCall => {
    const given = call.function.arguments;
    const argumentsNode = member(member(callNodes[index], 'function'), 'arguments');
    const text = typeof given === 'string' ? given : sourceText(source.text, argumentsNode!).json;
    return { name: call.function.name, arguments: text, ...(call.id !== undefined && { id: call.id }) };
  });
  return {
    role: 'assistant',
    content: message.content === undefined ? '' : textOf(message.content, `${at}.content`),
    ...(reasoning !== undefined && { reasoning }),
    ...(toolCalls !== undefined && toolCalls.length > 0 && { toolCalls }),
    ...(prefix && { prefix }),
  };
}

/** Text parts joined by line ends. @throws HttpError for a part that is not text. */
function textOf(content: Content, param: string): string {
  if (typeof content === 'string') return content;
  return content
    .map((part, index) => {
      if ('text' in part) return part.text;
      if (part.type === 'text')
        throw invalid(`${param}[${index}].text is required`, `${param}[${index}].text`, 'missing_required_parameter');
      throw unsupported(`${param}[${index}].type`, `this model reads text only, got a part of type ${JSON.stringify(part.type)}`);
    })
    .join('\n');
}

function resultOf(content: Content): string | ContentPart[] {
  if (typeof content === 'string') return content;
  return content.map((part) => ('text' in part ? { type: 'text', text: part.text } : { type: 'other', kind: part.type }));
}
