// SPDX-License-Identifier: MIT
// From the body of POST /v1/messages to the engine's protocol-free input.

import { elements, GREEDY, letOthersRun, member, parseMember, sourceText } from '../../engine/index.ts';
import type {
  ChatInput,
  ChatMessage,
  ContentPart,
  JsonNode,
  JsonText,
  SamplingOptions,
  StopOptions,
  ToolCall,
} from '../../engine/index.ts';
import { invalid, unsupported } from '../errors.ts';
import type { CountTokensBody, MessagesBody, ToolResultBlock } from '../schemas/messages.ts';
import type { JsonBody } from '../schemas/parse.ts';
import { effortFor } from './chat-request.ts';
import type { ChatContext } from './chat-request.ts';
import { formatGrammar, formatPrompt } from './grammar-request.ts';
import type { AnswerFormat, Grammar } from './grammar-request.ts';

type Message = CountTokensBody['messages'][number];
type Block = Exclude<Message['content'], string>[number];

/** A line that Claude Code changes with every request; in the prompt it would cost every prefix-cache hit. */
const billingHeader = 'x-anthropic-billing-header';

/** @throws HttpError naming the field that cannot be served. */
export async function messagesInput(body: CountTokensBody, source: JsonBody, context: ChatContext): Promise<ChatInput> {
  const tools = toolsOf(body, source);
  await letOthersRun(source.text.length);
  const thinking =
    body.thinking === undefined ? (context.model.thinking ?? context.config.thinking) : body.thinking.type !== 'disabled';
  const effort = thinking ? effortFor(body.output_config?.effort, context) : undefined;
  const system = systemOf(body);
  const format = formatOf(body, source);
  const shownFormat = format && formatPrompt(format, source);
  const nodes = body.messages.some(hasCalls) ? elements(parseMember(source.text, 'messages')) : [];
  const messages = body.messages.flatMap((message, index) =>
    message.role === 'assistant'
      ? [assistantOf(message, { at: `messages[${index}]`, node: nodes[index], source, last: index === body.messages.length - 1 })]
      : turnsOf(message, `messages[${index}]`),
  );
  return {
    kind: 'chat',
    messages: system === '' ? messages : [{ role: 'system', content: system }, ...messages],
    thinking,
    ...(tools.length > 0 && { tools }),
    ...(shownFormat !== undefined && { responseFormat: shownFormat }),
    ...(effort !== undefined && { effort }),
    ...toolChoiceOf(body, tools.length > 0),
    ...(body.tool_choice?.disable_parallel_tool_use === true && { parallelToolCalls: false }),
  };
}

export function messagesSampling(body: MessagesBody, context: ChatContext): SamplingOptions {
  const { generationDefaults } = context.info;
  return {
    ...GREEDY,
    temperature: body.temperature ?? generationDefaults.temperature,
    topP: body.top_p ?? generationDefaults.topP,
    topK: body.top_k ?? 0,
  };
}

/** What is asked for in this form is promised: a schema that cannot be enforced is refused. */
function formatOf({ output_config: config }: CountTokensBody, source: JsonBody): AnswerFormat | undefined {
  if (config?.format === undefined) return undefined;
  const node = member(parseMember(source.text, 'output_config'), 'format');
  return { type: config.format.type, schema: member(node, 'schema'), strict: true };
}

/** @throws HttpError for a format that cannot be served. */
export function messagesGrammar(body: MessagesBody, source: JsonBody): Grammar | undefined {
  const format = formatOf(body, source);
  return format && formatGrammar(format, source, 'output_config.format');
}

export function messagesStop(body: MessagesBody): StopOptions {
  return { strings: body.stop_sequences ?? [], tokens: [], includeInOutput: false, ignoreEos: false, minTokens: 0 };
}

function systemOf(body: CountTokensBody): string {
  if (body.system === undefined) return '';
  const texts = typeof body.system === 'string' ? [body.system] : body.system.map((block) => block.text);
  return texts.filter((text) => !text.startsWith(billingHeader)).join('\n\n');
}

/** Arguments of calls are rendered as the client spelled them. */
function hasCalls({ content }: Message): boolean {
  return typeof content !== 'string' && content.some((block) => 'input' in block);
}

/** Tools in the OpenAI shape the model was trained on; schemas keep the client's spelling. */
function toolsOf(body: CountTokensBody, source: JsonBody): JsonText[] {
  const nodes = body.tools === undefined ? [] : elements(parseMember(source.text, 'tools'));
  return (body.tools ?? []).flatMap((tool, index) => {
    // Tools that the provider runs itself (web search, code execution…) have a dated type and no schema.
    const schema = member(nodes[index], 'input_schema');
    if (schema === undefined) {
      if (tool.type !== undefined && tool.type !== 'custom') return [];
      throw invalid(`tools[${index}].input_schema is required`, `tools[${index}].input_schema`, 'missing_required_parameter');
    }
    const fields = [
      `"name": ${JSON.stringify(tool.name)}`,
      ...(tool.description === undefined ? [] : [`"description": ${JSON.stringify(tool.description)}`]),
      `"parameters": ${sourceText(source.text, schema).json}`,
      ...(tool.strict === true ? ['"strict": true'] : []),
    ];
    return [{ json: `{${fields.join(', ')}}` }];
  });
}

function toolChoiceOf(body: CountTokensBody, hasTools: boolean): Pick<ChatInput, 'toolChoice'> {
  const choice = body.tool_choice;
  if (choice === undefined) return {};
  if (choice.type === 'auto' || choice.type === 'none') return { toolChoice: choice.type };
  if (!hasTools) throw invalid('tool_choice needs tools to choose from', 'tool_choice');
  if (choice.type === 'any') return { toolChoice: 'required' };
  if (choice.name === undefined) throw invalid('tool_choice.name is required', 'tool_choice.name', 'missing_required_parameter');
  if (!body.tools?.some((tool) => tool.name === choice.name)) {
    throw invalid(`tool_choice names the tool ${JSON.stringify(choice.name)}, which is not among tools`, 'tool_choice.name');
  }
  return { toolChoice: { name: choice.name } };
}

/** A user message holds tool results and text; the results are turns of their own, in front. */
function turnsOf(message: Message & { role: 'user' | 'system' }, at: string): ChatMessage[] {
  if (typeof message.content === 'string') return [{ role: message.role, content: message.content }];
  const turns: ChatMessage[] = [];
  const texts: string[] = [];
  message.content.forEach((block, index) => {
    if ('text' in block) texts.push(block.text);
    else if ('tool_use_id' in block) turns.push({ role: 'tool', content: resultOf(block), toolCallId: block.tool_use_id });
    else throw refused(block, `${at}.content[${index}]`);
  });
  if (texts.length > 0) turns.push({ role: message.role, content: texts.join('\n\n') });
  return turns;
}

function resultOf(block: ToolResultBlock): string | ContentPart[] {
  if (block.content === undefined || typeof block.content === 'string') return block.content ?? '';
  return block.content.map((part) => ('text' in part ? { type: 'text', text: part.text } : { type: 'other', kind: part.type }));
}

interface AssistantPlace {
  at: string;
  node: JsonNode | undefined;
  source: JsonBody;
  /** The last message: the answer continues it. */
  last: boolean;
}

function assistantOf(message: Message & { role: 'assistant' }, { at, node, source, last }: AssistantPlace): ChatMessage {
  if (typeof message.content === 'string') return { role: 'assistant', content: message.content, ...(last && { prefix: true }) };
  const blocks = elements(member(node, 'content'));
  const texts: string[] = [];
  const thoughts: string[] = [];
  const toolCalls: ToolCall[] = [];
  message.content.forEach((block, index) => {
    if ('text' in block) texts.push(block.text);
    else if ('thinking' in block) thoughts.push(block.thinking);
    else if ('input' in block) {
      const input = member(blocks[index], 'input')!;
      toolCalls.push({ id: block.id, name: block.name, arguments: sourceText(source.text, input).json });
    } else if (block.type !== 'redacted_thinking') throw refused(block, `${at}.content[${index}]`);
  });
  return {
    role: 'assistant',
    content: texts.join('\n\n'),
    ...(thoughts.length > 0 && { reasoning: thoughts.join('\n\n') }),
    ...(toolCalls.length > 0 && { toolCalls }),
    ...(last && toolCalls.length === 0 && { prefix: true }),
  };
}

function refused(block: Block, at: string): Error {
  return unsupported(`${at}.type`, `this model reads text only, got a block of type ${JSON.stringify(block.type)}`);
}
