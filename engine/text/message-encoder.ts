// SPDX-License-Identifier: MIT
// The released V4 prompt encoder ("the reference", encoding/encoding_dsv4.py of a checkpoint), rule by rule. What this server
// decides for itself is in prompt.ts.

import { EngineError } from '../errors.ts';
import { atOnce } from '../event-loop.ts';
import * as chat from './chat-constants.ts';
import type { EncoderRevision } from './chat-constants.ts';
import { renderToolCalls } from './dsml.ts';
import { JsonSyntaxError, parseLossless, pythonJson, type JsonText } from './json-text.ts';
import { SegmentBuilder, type Segment } from './segment.ts';
import {
  lastUserTurn,
  mergeMessages,
  sortToolResults,
  withoutOldDevelopers,
  type AssistantTurn,
  type EncoderMessage,
  type Turn,
  type UserTurn,
} from './turns.ts';
import type { TurnReplay } from './turn-replay.ts';

export interface EncodeOptions {
  mode: 'chat' | 'thinking';
  revision: EncoderRevision;
  /** Messages rendered earlier: they are taken into account but not rendered again. */
  context?: readonly EncoderMessage[];
  /** Default true. Has no effect when any message carries tools. */
  dropThinking?: boolean;
  /** Dropping keeps developer turns before the last user turn. The reference deletes them. */
  keepDevelopers?: boolean;
  /** Begin-of-sentence token in front, when there is no context. Default true. */
  bos?: boolean;
  effort?: string;
  /** Turns with calls that come back are rendered as they were generated. */
  replay?: TurnReplay;
}

/**
 * Renders messages as the reference does.
 * @throws EngineError INVALID_REQUEST with the path of the field at fault.
 */
export function encodeMessages(messages: readonly EncoderMessage[], options: EncodeOptions): Segment[] {
  return atOnce(encodeStepwise(messages, options));
}

/** As encodeMessages, a turn of the conversation a step. */
export function* encodeStepwise(messages: readonly EncoderMessage[], options: EncodeOptions): Generator<void, Segment[]> {
  if (options.mode !== 'chat' && options.mode !== 'thinking') {
    throw invalid('thinking', `thinking mode must be "chat" or "thinking", got "${String(options.mode)}"`);
  }
  const context = mergeMessages(options.context ?? []);
  let turns = sortToolResults([...context, ...mergeMessages(messages)]);
  const drop = (options.dropThinking ?? true) && !turns.some((turn) => 'tools' in turn && turn.tools.length > 0);
  let skip = context.length;
  if (options.mode === 'thinking' && drop && !options.keepDevelopers) {
    turns = withoutOldDevelopers(turns);
    skip = withoutOldDevelopers(context).length;
  }
  return yield* new Renderer(turns, drop, options).render(skip);
}

class Renderer {
  private readonly turns: readonly Turn[];
  private readonly thinking: boolean;
  private readonly drop: boolean;
  private readonly options: EncodeOptions;
  private readonly lastUser: number;
  private readonly builder = new SegmentBuilder();

  constructor(turns: readonly Turn[], drop: boolean, options: EncodeOptions) {
    this.turns = turns;
    this.thinking = options.mode === 'thinking';
    this.drop = drop;
    this.options = options;
    this.lastUser = lastUserTurn(turns);
  }

  *render(skip: number): Generator<void, Segment[]> {
    const effort = effortPrefix(this.options);
    if ((this.options.bos ?? true) && (this.options.context ?? []).length === 0) this.builder.control(chat.BOS);
    if (skip === 0 && this.thinking && this.turns.length > 0) this.builder.markup(effort);
    for (let index = skip; index < this.turns.length; index++) {
      this.turn(index, this.turns[index] as Turn);
      this.transition(index, this.turns[index] as Turn);
      yield;
    }
    return this.builder.build();
  }

  private turn(index: number, turn: Turn): void {
    switch (turn.role) {
      case 'system':
        this.builder.text(turn.content);
        this.attachments(turn);
        break;
      case 'developer':
        this.builder.control(chat.USER).text(turn.content);
        this.attachments(turn);
        break;
      case 'latest_reminder':
        this.builder.control(chat.LATEST_REMINDER).text(turn.content);
        break;
      case 'user':
        this.userTurn(turn);
        break;
      case 'assistant':
        this.assistantTurn(turn, this.rendersReasoning(index));
    }
  }

  private assistantTurn(turn: AssistantTurn, reasoning: boolean): void {
    const generated = this.options.replay?.find(turn, reasoning);
    if (generated !== undefined) this.builder.append(generated);
    else {
      if (reasoning) this.builder.text(turn.reasoning).control(chat.THINK_CLOSE);
      this.builder.text(turn.content);
      if (turn.toolCalls.length > 0) this.builder.append(renderToolCalls(turn.toolCalls, `${turn.path}.tool_calls`));
    }
    if (!turn.withoutEos) this.builder.control(chat.EOS);
  }

  /** Tools section, then response format, each behind two newlines. */
  private attachments(turn: { tools: readonly JsonText[]; responseFormat?: JsonText }): void {
    if (turn.tools.length > 0) {
      const section = chat.TOOLS_SECTION;
      const schemas = turn.tools.map((tool, i) => objectText(tool, `tools[${i}].function`));
      this.builder.markup(`\n\n${section.prefix}`).text(schemas.join(section.separator)).markup(section.suffix);
    }
    if (turn.responseFormat !== undefined) {
      const format = canonicalText(turn.responseFormat, 'response_format');
      this.builder.markup(`\n\n${chat.RESPONSE_FORMAT_PREFIX}`).text(format);
    }
  }

  private userTurn(turn: UserTurn): void {
    const result = chat.TOOL_RESULT;
    this.builder.control(chat.USER);
    turn.blocks.forEach((block, index) => {
      if (index > 0) this.builder.text(result.blockSeparator);
      this.builder.text(block.kind === 'text' ? block.text : result.open + block.text + result.close);
    });
  }

  private rendersReasoning(index: number): boolean {
    const previous = this.turns[index - 1];
    if (!this.thinking || (previous !== undefined && previous.task !== undefined)) return false;
    return !this.drop || index > this.lastUser;
  }

  private transition(index: number, turn: Turn): void {
    const next = this.turns[index + 1];
    if (next !== undefined && next.role !== 'assistant' && next.role !== 'latest_reminder') return;
    const { task } = turn;
    if (task === 'action') {
      this.builder.control(chat.ASSISTANT).control(this.thinking ? chat.THINK_OPEN : chat.THINK_CLOSE);
    }
    if (task !== undefined) {
      this.builder.control(chat.TASK_TOKENS[task]);
    } else if (turn.role === 'user' || turn.role === 'developer') {
      const open = this.thinking && (!this.drop || index >= this.lastUser);
      this.builder.control(chat.ASSISTANT).control(open ? chat.THINK_OPEN : chat.THINK_CLOSE);
    }
  }
}

/** An unknown word is an error in chat mode too, although it renders nothing there. */
function effortPrefix({ effort, revision }: EncodeOptions): string {
  if (effort === undefined) return '';
  const table = chat.EFFORT_PREFIX[revision];
  const prefix = Object.hasOwn(table, effort) ? table[effort] : undefined;
  if (prefix === undefined) {
    const words = Object.keys(table).join(', ');
    throw invalid('reasoning_effort', `reasoning effort "${effort}" is not one of ${words} (encoder revision ${revision})`);
  }
  return prefix;
}

function objectText(text: JsonText, path: string): string {
  const canonical = canonicalText(text, path);
  if (!canonical.startsWith('{')) throw invalid(path, `${path} must be a JSON object`);
  return canonical;
}

function canonicalText(text: JsonText, path: string): string {
  try {
    return pythonJson(parseLossless(text.json));
  } catch (error) {
    if (error instanceof JsonSyntaxError) throw invalid(path, `${path} is not valid JSON: ${error.message}`);
    throw error;
  }
}

function invalid(param: string, message: string): EngineError {
  return new EngineError('INVALID_REQUEST', message, { param });
}
