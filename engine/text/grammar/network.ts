// SPDX-License-Identifier: MIT
// Rules of a grammar as networks of nodes, with the fewest bytes from each node to the end of its rule. Repetitions are
// rules of their own that count, so that thousands of them need no more nodes than one.

import type { ByteRange, Expression } from './ebnf-reader.ts';
import { UnreadableGrammar } from './ebnf-reader.ts';

export interface Node {
  readonly id: number;
  bytes: { ranges: readonly ByteRange[]; to: Node }[];
  calls: { rule: Rule; to: Node }[];
  skips: Node[];
  /** The rule ends here; in a repetition, one round of it. */
  accepts: boolean;
  /** Fewest bytes to an accepting node; Infinity when there is no way. */
  least: number;
  /** First step of a shortest way; it leads to a node with a smaller or equal `least` that was found before. */
  shortest?: { byte: number; to: Node } | { rule: Rule; to: Node } | { to: Node };
}

export interface Rule {
  readonly id: number;
  readonly start: Node;
  /** The body may be taken this often. */
  readonly repeat?: { min: number; max: number };
}

/** Fewest bytes of one whole use of a rule. */
export function leastBytes(rule: Rule): number {
  if (rule.repeat === undefined) return rule.start.least;
  return rule.repeat.min === 0 ? 0 : rule.repeat.min * rule.start.least;
}

const MAX_NODES = 100_000;
/** Repetitions of what may be empty are counted up to this number. */
const MAX_EMPTY_ROUNDS = 250;
/** Bytes to prefer where any of a class will do. */
const PLAIN_BYTES = [...'a0A1 '].map((char) => char.charCodeAt(0));

/** A grammar as networks. */
export class Network {
  readonly root: Rule;
  /** The most bytes that one step can add to what is still needed. */
  readonly largestRise: number;
  /** Class of each byte; bytes of one class are alike everywhere. */
  readonly byteClass: Uint8Array;
  /** One byte of each class. */
  readonly classBytes: readonly number[];
  private readonly nodes: Node[] = [];
  private readonly rules: Rule[] = [];
  private readonly named = new Map<string, Rule>();

  /** @throws UnreadableGrammar for undefined rules, rules that begin with themselves, and too many nodes */
  constructor(rules: ReadonlyMap<string, Expression>, root = 'root') {
    for (const name of rules.keys()) this.named.set(name, this.addRule());
    for (const [name, body] of rules) this.fill(this.ruleNamed(name), body);
    this.root = this.ruleNamed(root);
    this.measure();
    this.refuseLeftRecursion();
    this.largestRise = this.findLargestRise();
    const { byteClass, classBytes } = byteClasses(this.nodes);
    this.byteClass = byteClass;
    this.classBytes = classBytes;
  }

  /** One byte of each class that has bytes in the range. */
  representatives([first, last]: ByteRange): number[] {
    const low = this.byteClass[first] as number;
    const high = this.byteClass[last] as number;
    return [first, ...this.classBytes.slice(low + 1, high + 1)];
  }

  private ruleNamed(name: string): Rule {
    const rule = this.named.get(name);
    if (rule === undefined) throw new UnreadableGrammar(`the rule "${name}" is not defined`);
    return rule;
  }

  private addRule(repeat?: Rule['repeat']): Rule {
    const rule: Rule = { id: this.rules.length, start: this.addNode(), ...(repeat === undefined ? {} : { repeat }) };
    this.rules.push(rule);
    return rule;
  }

  private addNode(): Node {
    if (this.nodes.length >= MAX_NODES) throw new UnreadableGrammar(`more than ${MAX_NODES} nodes`);
    const node: Node = { id: this.nodes.length, bytes: [], calls: [], skips: [], accepts: false, least: Infinity };
    this.nodes.push(node);
    return node;
  }

  private fill(rule: Rule, body: Expression): Rule {
    const end = this.addNode();
    end.accepts = true;
    this.connect(body, rule.start, end);
    return rule;
  }

  private connect(expression: Expression, from: Node, to: Node): void {
    switch (expression.kind) {
      case 'byte':
        from.bytes.push({ ranges: expression.ranges, to });
        return;
      case 'rule':
        from.calls.push({ rule: this.ruleNamed(expression.name), to });
        return;
      case 'choice':
        for (const part of expression.parts) this.connect(part, from, to);
        return;
      case 'repeat': {
        const { body, min, max } = expression;
        from.calls.push({ rule: this.fill(this.addRule({ min, max }), body), to });
        return;
      }
      case 'sequence': {
        const last = expression.parts.length - 1;
        if (last < 0) from.skips.push(to);
        let at = from;
        expression.parts.forEach((part, i) => {
          const next = i === last ? to : this.addNode();
          this.connect(part, at, next);
          at = next;
        });
      }
    }
  }

  /** Fewest bytes from every node: each change is told to the nodes that lead there, until nothing changes. */
  private measure(): void {
    const leading = nodesLeadingTo(this.nodes);
    const changed = this.nodes.filter(({ accepts }) => accepts);
    for (const node of changed) node.least = 0;
    // Grows while it is gone through.
    for (const node of changed) {
      for (const from of leading[node.id] as Node[]) if (improve(from)) changed.push(from);
    }
    for (const { repeat, start } of this.rules) {
      // What may be empty may be left out. Every round of nothing is a reading of its own, so that there must not be many.
      if (repeat !== undefined && start.least === 0) Object.assign(repeat, { min: 0, max: emptyRounds(repeat.max) });
    }
  }

  private refuseLeftRecursion(): void {
    const state = new Map<Rule, 'open' | 'done'>();
    const visit = (rule: Rule): void => {
      if (state.get(rule) === 'open') throw new UnreadableGrammar('a rule begins with itself');
      if (state.has(rule)) return;
      state.set(rule, 'open');
      for (const node of reachedWithoutBytes(rule.start)) for (const call of node.calls) visit(call.rule);
      state.set(rule, 'done');
    };
    for (const rule of this.rules) visit(rule);
  }

  private findLargestRise(): number {
    let rise = 0;
    for (const node of this.nodes) {
      for (const after of followingBytes(node)) {
        if (Number.isFinite(after) && Number.isFinite(node.least)) rise = Math.max(rise, after - node.least);
      }
    }
    for (const { repeat, start } of this.rules) if (repeat && Number.isFinite(start.least)) rise = Math.max(rise, start.least);
    return rise;
  }
}

function emptyRounds(max: number): number {
  return max > MAX_EMPTY_ROUNDS ? Infinity : max;
}

/** By id of a node, those whose way may go through it. */
function nodesLeadingTo(nodes: readonly Node[]): Node[][] {
  const leading: Node[][] = nodes.map(() => []);
  for (const node of nodes) {
    for (const to of node.skips) (leading[to.id] as Node[]).push(node);
    for (const { to } of node.bytes) (leading[to.id] as Node[]).push(node);
    for (const { rule, to } of node.calls) {
      (leading[to.id] as Node[]).push(node);
      (leading[rule.start.id] as Node[]).push(node);
    }
  }
  return leading;
}

function improve(node: Node): boolean {
  const before = node.least;
  for (const to of node.skips) {
    if (to.least < node.least) Object.assign(node, { least: to.least, shortest: { to } });
  }
  for (const { ranges, to } of node.bytes) {
    if (1 + to.least < node.least) Object.assign(node, { least: 1 + to.least, shortest: { byte: plainByte(ranges), to } });
  }
  for (const { rule, to } of node.calls) {
    const least = leastBytes(rule) + to.least;
    if (least < node.least) Object.assign(node, { least, shortest: { rule, to } });
  }
  return node.least < before;
}

function followingBytes(node: Node): number[] {
  return [
    ...node.skips.map((to) => to.least),
    ...node.bytes.map(({ to }) => 1 + to.least),
    ...node.calls.map(({ rule, to }) => leastBytes(rule) + to.least),
  ];
}

function reachedWithoutBytes(start: Node): ReadonlySet<Node> {
  const reached = new Set([start]);
  for (const node of reached) {
    for (const to of node.skips) reached.add(to);
    for (const { rule, to } of node.calls) if (leastBytes(rule) === 0) reached.add(to);
  }
  return reached;
}

function plainByte(ranges: readonly ByteRange[]): number {
  const inRanges = (byte: number): boolean => ranges.some(([first, last]) => first <= byte && byte <= last);
  return PLAIN_BYTES.find(inRanges) ?? ranges[0]?.[0] ?? 0;
}

/** Bytes that no range of any node tells apart get the same class. */
function byteClasses(nodes: readonly Node[]): { byteClass: Uint8Array; classBytes: number[] } {
  const borders = new Set([0]);
  for (const { bytes } of nodes) {
    for (const { ranges } of bytes) {
      for (const [first, last] of ranges) {
        borders.add(first);
        borders.add(last + 1);
      }
    }
  }
  const classBytes = [...borders].filter((border) => border < 256).sort((a, b) => a - b);
  const byteClass = new Uint8Array(256);
  classBytes.forEach((border, i) => byteClass.fill(i, border));
  return { byteClass, classBytes };
}
