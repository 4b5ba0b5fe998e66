// SPDX-License-Identifier: MIT
// Clients send earlier tool calls back as parsed values. Rendered anew they can differ from what the model wrote, in
// spacing, number spelling or newlines at the seams, and the prefix cache would miss from there on. So a turn with calls
// is kept as it was generated and put into the prompt again when it comes back with the ids of its calls.

import type { ToolCall } from '../types.ts';
import type { ContentEvent } from './content-events.ts';
import { JsonSyntaxError, parseLossless, pythonJson } from './json-text.ts';
import { SegmentBuilder, type Segment } from './segment.ts';

/** An assistant turn as a client sends it back. */
export interface ReturnedTurn {
  reasoning: string;
  content: string;
  toolCalls: readonly ToolCall[];
}

export interface GeneratedTurn extends ReturnedTurn {
  /** True when it began in the reasoning. */
  thinking: boolean;
  /** From behind the opener to the end-of-sentence token, without it. */
  source: readonly Segment[];
}

/** Turns by the id of their first call; the least recently used go first. */
export class TurnReplay {
  private readonly turns = new Map<string, GeneratedTurn>();
  private readonly maxUnits: number;
  private units = 0;

  /** @param maxUnits UTF-16 units of source kept in all */
  constructor(maxUnits = 16 * 1024 * 1024) {
    this.maxUnits = maxUnits;
  }

  record(turn: GeneratedTurn): void {
    const id = turn.toolCalls[0]?.id;
    if (id === undefined) return;
    this.forget(id);
    this.turns.set(id, turn);
    this.units += sourceUnits(turn);
    for (const oldest of this.turns.keys()) {
      if (this.units <= this.maxUnits) break;
      this.forget(oldest);
    }
  }

  /**
   * Source of a turn that came back unchanged. Reasoning that the client left out is put back.
   * @param thinking whether the turn is rendered with its reasoning
   */
  find(returned: ReturnedTurn, thinking: boolean): readonly Segment[] | undefined {
    const id = returned.toolCalls[0]?.id;
    const turn = id === undefined ? undefined : this.turns.get(id);
    if (id === undefined || turn === undefined || turn.thinking !== thinking) return undefined;
    const sameReasoning = !thinking || returned.reasoning === '' || returned.reasoning === turn.reasoning;
    if (!sameReasoning || returned.content !== turn.content || !sameCalls(returned.toolCalls, turn.toolCalls)) return undefined;
    this.turns.delete(id);
    this.turns.set(id, turn);
    return turn.source;
  }

  private forget(id: string): void {
    const turn = this.turns.get(id);
    if (turn === undefined) return;
    this.turns.delete(id);
    this.units -= sourceUnits(turn);
  }
}

/** Collects a turn while it is generated. */
export class TurnRecorder {
  private readonly source = new SegmentBuilder();
  private readonly thinking: boolean;
  private readonly calls: { id: string; name: string; arguments: string[] }[] = [];
  private readonly reasoning: string[] = [];
  private readonly content: string[] = [];

  constructor(thinking: boolean) {
    this.thinking = thinking;
  }

  /** What the parser was given. */
  read(segments: readonly Segment[]): void {
    this.source.append(segments);
  }

  /** What it made of that, with the id that was given to a call. */
  add(event: ContentEvent, id?: string): void {
    if (event.kind === 'reasoning') this.reasoning.push(event.text);
    else if (event.kind === 'answer') this.content.push(event.text);
    else if (event.kind === 'tool-call') this.calls.push({ id: id ?? '', name: event.name, arguments: [] });
    else if (event.kind === 'tool-arguments') this.calls.at(-1)?.arguments.push(event.text);
  }

  /** Once the turn is complete. */
  turn(): GeneratedTurn {
    return {
      thinking: this.thinking,
      reasoning: this.reasoning.join(''),
      content: this.content.join(''),
      toolCalls: this.calls.map((call) => ({ ...call, arguments: call.arguments.join('') })),
      source: this.source.build(),
    };
  }
}

function sourceUnits(turn: GeneratedTurn): number {
  return turn.source.reduce((sum, { text }) => sum + text.length, 0);
}

/** Arguments are the same when their values are, in the same order: clients parse and print them again. */
function sameCalls(a: readonly ToolCall[], b: readonly ToolCall[]): boolean {
  return (
    a.length === b.length &&
    a.every((call, i) => {
      const other = b[i] as ToolCall;
      return call.id === other.id && call.name === other.name && canonical(call.arguments) === canonical(other.arguments);
    })
  );
}

function canonical(text: string): string {
  try {
    return pythonJson(parseLossless(text));
  } catch (error) {
    if (error instanceof JsonSyntaxError) return text;
    throw error;
  }
}
