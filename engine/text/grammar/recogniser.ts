// SPDX-License-Identifier: MIT
// Follows text through the networks of a grammar, byte by byte, and knows the shortest way to its end from everywhere.
// States are made when they are first reached and shared by all texts that lead there.

import type { ByteRange } from './ebnf-reader.ts';
import { leastBytes, type Network, type Node, type Rule } from './network.ts';

/** One use of a rule: where it returns to, and for a repetition how often it has been through. */
interface Frame {
  readonly id: number;
  readonly rule: Rule;
  readonly rounds: number;
  readonly returns: Node | undefined;
  readonly parent: Frame | undefined;
  /** Fewest bytes that are still needed when the rule is done. */
  readonly leastAfter: number;
}

interface Item {
  readonly node: Node;
  readonly frame: Frame;
}

/** Everything that a text may still be under the grammar. */
export interface State {
  readonly id: number;
  readonly items: readonly Item[];
  /** The text may end here. */
  readonly complete: boolean;
  /** Fewest bytes to an end. */
  readonly least: number;
  /** By class of the next byte; null: no such text. Filled on demand. */
  readonly next: (State | null | undefined)[];
}

/** Of more ways to read a text than this the longest ones are given up. */
const MAX_ITEMS = 256;
/** What is reached without a byte, beyond this is given up too. */
const MAX_REACHED = 5000;
/** Known states and frames beyond these numbers are forgotten, and made again where they are needed. */
const MAX_STATES = 20_000;
const MAX_FRAMES = 200_000;

export class Recogniser {
  readonly start: State;
  private readonly network: Network;
  private readonly states = new Map<string, State>();
  private readonly frames = new Map<string, Frame>();
  /** Nodes behind which their rule has nothing more. */
  private readonly tails = new Map<Node, boolean>();
  private nextState = 0;
  private nextFrame = 0;

  constructor(network: Network) {
    this.network = network;
    const closure = new Closure(this.frameOf.bind(this), this.isTail.bind(this));
    closure.enter(this.frameOf({ rule: network.root, rounds: 0, returns: undefined, parent: undefined }));
    this.start = this.stateOf(closure);
  }

  /** @returns null when no text of the grammar goes on like this */
  step(state: State, byte: number): State | null {
    const kind = this.network.byteClass[byte] as number;
    const known = state.next[kind];
    if (known !== undefined) return known;
    const closure = new Closure(this.frameOf.bind(this), this.isTail.bind(this));
    for (const { node, frame } of state.items) {
      for (const { ranges, to } of node.bytes) {
        if (ranges.some(([first, last]) => first <= byte && byte <= last)) closure.reach(to, frame);
      }
    }
    const next = closure.items.size === 0 && !closure.complete ? null : this.stateOf(closure);
    state.next[kind] = next;
    return next;
  }

  run(state: State, bytes: Uint8Array): State | null {
    let at: State | null = state;
    for (let i = 0; i < bytes.length && at !== null; i++) at = this.step(at, bytes[i] as number);
    return at;
  }

  /**
   * The state behind one character of a set, whichever it is; null where none fits, undefined where it matters which.
   * @param forms the set as byte sequences, each byte any of its ranges
   */
  anyOf(state: State, forms: readonly (readonly ByteRange[])[]): State | null | undefined {
    const ends = new Set<State | null>();
    for (const form of forms) {
      let states = new Set<State | null>([state]);
      for (const range of form) {
        const bytes = this.network.representatives(range);
        states = new Set([...states].flatMap((from) => (from === null ? [null] : bytes.map((byte) => this.step(from, byte)))));
      }
      for (const end of states) ends.add(end);
    }
    const [end] = ends;
    return ends.size === 1 ? end : undefined;
  }

  /** Bytes of a shortest way to an end; undefined when there is none. */
  shortestEnd(state: State): Uint8Array | undefined {
    if (state.complete) return new Uint8Array();
    const [first] = state.items;
    if (first === undefined || !Number.isFinite(state.least)) return undefined;
    const out: number[] = [];
    let node: Node | undefined = first.node;
    let frame: Frame | undefined = first.frame;
    while (node !== undefined && frame !== undefined) {
      writeToAccept(node, out);
      const { repeat, start } = frame.rule;
      for (let round = frame.rounds + 1; round < (repeat?.min ?? 0); round++) writeToAccept(start, out);
      node = frame.returns;
      frame = frame.parent;
    }
    return Uint8Array.from(out);
  }

  private frameOf(use: Omit<Frame, 'id' | 'leastAfter'>): Frame {
    const { rule, rounds, returns, parent } = use;
    const key = `${rule.id},${rounds},${returns?.id ?? ''},${parent?.id ?? ''}`;
    const known = this.frames.get(key);
    if (known !== undefined) return known;
    if (this.frames.size >= MAX_FRAMES) this.frames.clear();
    const leastAfter = returns === undefined || parent === undefined ? 0 : leastFrom(returns, parent);
    const frame = { ...use, id: this.nextFrame++, leastAfter };
    this.frames.set(key, frame);
    return frame;
  }

  private stateOf({ items, complete }: Closure): State {
    const all = [...items.values()].sort((a, b) => leastFrom(a.node, a.frame) - leastFrom(b.node, b.frame));
    const kept = all.slice(0, MAX_ITEMS);
    const key = kept.map(itemKey).sort().join(' ') + (complete ? '.' : '');
    const known = this.states.get(key);
    if (known !== undefined) return known;
    if (this.states.size >= MAX_STATES) this.states.clear();
    const least = complete ? 0 : kept[0] === undefined ? Infinity : leastFrom(kept[0].node, kept[0].frame);
    const next = new Array<State | null | undefined>(this.network.classBytes.length);
    const state: State = { id: this.nextState++, items: kept, complete, least, next };
    this.states.set(key, state);
    return state;
  }

  private isTail(node: Node): boolean {
    const known = this.tails.get(node);
    if (known !== undefined) return known;
    const { bytes, calls, skips } = node;
    this.tails.set(node, false);
    const tail =
      bytes.length === 0 && calls.length === 0 && (node.accepts || skips.length > 0) && skips.every((to) => this.isTail(to));
    this.tails.set(node, tail);
    return tail;
  }
}

function itemKey({ node, frame }: Item): string {
  return `${node.id}:${frame.id}`;
}

/** Fewest bytes from a node in a use of its rule to the end of the text. */
function leastFrom(node: Node, { rule, rounds, leastAfter }: Frame): number {
  const missing = rule.repeat === undefined ? 0 : rule.repeat.min - rounds - 1;
  return node.least + (missing > 0 ? missing * rule.start.least : 0) + leastAfter;
}

function writeToAccept(from: Node, out: number[]): void {
  for (let node = from; node.shortest !== undefined; node = node.shortest.to) {
    if ('byte' in node.shortest) out.push(node.shortest.byte);
    else if ('rule' in node.shortest && leastBytes(node.shortest.rule) > 0) {
      const { rule } = node.shortest;
      for (let round = 0; round < (rule.repeat?.min ?? 1); round++) writeToAccept(rule.start, out);
    }
  }
}

/** Collects what can be reached without reading a byte. */
class Closure {
  readonly items = new Map<string, Item>();
  complete = false;
  private readonly seen = new Set<string>();
  private readonly frameOf: (use: Omit<Frame, 'id' | 'leastAfter'>) => Frame;
  private readonly isTail: (node: Node) => boolean;

  constructor(frameOf: (use: Omit<Frame, 'id' | 'leastAfter'>) => Frame, isTail: (node: Node) => boolean) {
    this.frameOf = frameOf;
    this.isTail = isTail;
  }

  /** Begins a rule, or the next round of a repetition. */
  enter(frame: Frame): void {
    const { repeat, start } = frame.rule;
    if (repeat !== undefined && frame.rounds >= repeat.min) this.leave(frame);
    if (repeat === undefined || frame.rounds < repeat.max) this.reach(start, frame);
  }

  reach(node: Node, frame: Frame): void {
    const key = itemKey({ node, frame });
    if (this.seen.has(key) || this.seen.size >= MAX_REACHED) return;
    this.seen.add(key);
    if (node.bytes.length > 0) this.items.set(key, { node, frame });
    for (const to of node.skips) this.reach(to, frame);
    for (const { rule, to } of node.calls) {
      const over = frame.rule.repeat === undefined && this.isTail(to) && frame.parent !== undefined;
      const back = over ? { returns: frame.returns, parent: frame.parent } : { returns: to, parent: frame };
      this.enter(this.frameOf({ rule, rounds: 0, ...back }));
    }
    if (node.accepts) this.finish(frame);
  }

  /** A rule is done, or one round of it. */
  private finish(frame: Frame): void {
    const { repeat } = frame.rule;
    if (repeat === undefined) this.leave(frame);
    else this.enter(this.frameOf({ ...frame, rounds: nextRounds(frame.rounds, repeat) }));
  }

  private leave({ returns, parent }: Frame): void {
    if (returns !== undefined && parent !== undefined) this.reach(returns, parent);
    else this.complete = true;
  }
}

/** Without an upper limit nothing is counted beyond the lower one. */
function nextRounds(rounds: number, { min, max }: { min: number; max: number }): number {
  return max === Infinity ? Math.min(rounds + 1, min) : rounds + 1;
}
