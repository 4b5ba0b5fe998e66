// SPDX-License-Identifier: MIT
// From messages to the turns the prompt is made of: what stands between two assistant messages is one user turn, tool
// results among it, in the order of the calls.

import { EngineError } from '../errors.ts';
import type { ContentPart, JsonText, ToolCall } from '../types.ts';
import { TASK_TOKENS, TOOL_RESULT, type Task } from './chat-constants.ts';

export interface EncoderMessage {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool' | 'latest_reminder';
  /** Parts are allowed in tool results only. */
  content: string | ContentPart[];
  /** `function` objects; system and developer only. */
  tools?: readonly JsonText[];
  responseFormat?: JsonText;
  reasoning?: string;
  toolCalls?: readonly ToolCall[];
  toolCallId?: string;
  task?: Task;
  /** No end-of-sentence token behind this assistant message: it is to be continued. */
  withoutEos?: boolean;
  /** Where the message stands in the request, for errors. Default: its place in the list. */
  path?: string;
}

/** A piece of a user turn: what the user wrote, or the result of a tool call. */
export type UserBlock = { kind: 'text'; text: string } | { kind: 'result'; text: string; callId?: string };

export interface UserTurn {
  role: 'user';
  blocks: UserBlock[];
  task?: Task;
  path: string;
}

export interface AssistantTurn {
  role: 'assistant';
  content: string;
  reasoning: string;
  toolCalls: readonly ToolCall[];
  withoutEos: boolean;
  task?: Task;
  path: string;
}

export type Turn =
  | UserTurn
  | {
      role: 'system' | 'developer';
      content: string;
      tools: readonly JsonText[];
      responseFormat?: JsonText;
      task?: Task;
      path: string;
    }
  | AssistantTurn
  | { role: 'latest_reminder'; content: string; task?: Task; path: string };

/** Joins user messages and tool results that follow each other into one user turn. */
export function mergeMessages(messages: readonly EncoderMessage[]): Turn[] {
  const turns: Turn[] = [];
  messages.forEach((message, index) => {
    const path = message.path ?? `messages[${index}]`;
    const last = turns.at(-1);
    const task = checkedTask(message, path);
    if (message.role === 'tool') {
      const block: UserBlock = { kind: 'result', text: resultText(message.content, path) };
      if (message.toolCallId !== undefined) block.callId = message.toolCallId;
      if (last?.role === 'user') last.blocks.push(block);
      else turns.push({ role: 'user', blocks: [block], path });
    } else if (message.role === 'user') {
      const block: UserBlock = { kind: 'text', text: plainText(message, path) };
      // The task of a message that is merged into an earlier one is lost, as in the reference.
      if (last?.role === 'user' && last.task === undefined) last.blocks.push(block);
      else turns.push({ role: 'user', blocks: [block], path, ...task });
    } else {
      turns.push({ ...otherTurn(message, path), ...task });
    }
  });
  return turns;
}

function otherTurn(message: EncoderMessage, path: string): Turn {
  const content = plainText(message, path);
  const { role } = message;
  if (role === 'developer' && content === '') throw invalid(`${path}.content`, 'a developer message needs content');
  switch (role) {
    case 'developer':
    case 'system': {
      const turn = { role, content, tools: message.tools ?? [], path };
      return message.responseFormat === undefined ? turn : { ...turn, responseFormat: message.responseFormat };
    }
    case 'latest_reminder':
      return { role, content, path };
    case 'assistant': {
      const { reasoning = '', toolCalls = [], withoutEos = false } = message;
      return { role, content, reasoning, toolCalls, withoutEos, path };
    }
    default:
      throw invalid(`${path}.role`, `unknown role "${String(role)}"`);
  }
}

function checkedTask({ task }: EncoderMessage, path: string): { task?: Task } {
  if (task === undefined) return {};
  if (!Object.hasOwn(TASK_TOKENS, task)) throw invalid(`${path}.task`, `unknown task "${String(task)}"`);
  return { task };
}

function plainText({ content }: EncoderMessage, path: string): string {
  if (typeof content !== 'string') throw invalid(`${path}.content`, `${path}.content must be a string`);
  return content;
}

/** Parts that are not text are named instead of rendered. */
function resultText(content: string | ContentPart[], path: string): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) throw invalid(`${path}.content`, `${path}.content must be a string or a list of parts`);
  const { unsupportedPrefix, unsupportedSuffix, blockSeparator } = TOOL_RESULT;
  return content
    .map((part) => (part.type === 'text' ? part.text : unsupportedPrefix + part.kind + unsupportedSuffix))
    .join(blockSeparator);
}

/**
 * Puts the results of a user turn into the order of the calls they answer. Results with an unknown id count as the
 * first call; text blocks keep their places.
 */
export function sortToolResults(turns: readonly Turn[]): Turn[] {
  let order = new Map<string, number>();
  return turns.map((turn) => {
    if (turn.role === 'assistant' && turn.toolCalls.length > 0) {
      order = new Map();
      for (const [index, call] of turn.toolCalls.entries()) if (call.id !== undefined) order.set(call.id, index);
    }
    return turn.role === 'user' && order.size > 0 ? { ...turn, blocks: sortBlocks(turn.blocks, order) } : turn;
  });
}

function sortBlocks(blocks: readonly UserBlock[], order: ReadonlyMap<string, number>): UserBlock[] {
  const place = (block: UserBlock): number => (block.kind === 'result' && order.get(block.callId ?? '')) || 0;
  const results = blocks.filter((block) => block.kind === 'result').sort((a, b) => place(a) - place(b));
  let next = 0;
  return blocks.map((block) => (block.kind === 'result' ? (results[next++] as UserBlock) : block));
}

/** Index of the last user or developer turn, or -1. */
export function lastUserTurn(turns: readonly Turn[]): number {
  return turns.findLastIndex((turn) => turn.role === 'user' || turn.role === 'developer');
}

/** Deletes developer turns before the last user turn: part of dropping reasoning in the reference. */
export function withoutOldDevelopers(turns: readonly Turn[]): Turn[] {
  const last = lastUserTurn(turns);
  return turns.filter((turn, index) => index >= last || turn.role !== 'developer');
}

function invalid(param: string, message: string): EngineError {
  return new EngineError('INVALID_REQUEST', message, { param });
}
