// SPDX-License-Identifier: MIT

export interface StopMatch {
  /** Text that may be shown now. */
  text: string;
  /** The stop string that was found; nothing behind it is ever returned. */
  stop?: string;
}

interface StopState {
  next: Map<string, StopState>;
  /** State of the longest proper suffix that also begins a stop string. */
  fallback: StopState | undefined;
  /** UTF-16 units matched so far: what has to be held back here. */
  depth: number;
  /** Longest stop string that ends here. */
  stop: string | undefined;
}

/**
 * Finds stop strings in a stream (Aho-Corasick over UTF-16 units: linear, and independent of how the text is split).
 * The match that ends first wins; of several that end together the longest, which is the one that begins first.
 * Held back is only what may still become a stop string.
 */
export class StopMatcher {
  private readonly root: StopState;
  private readonly includeStop: boolean;
  private state: StopState;
  private held = '';
  private found: string | undefined;

  constructor(stops: readonly string[], includeStop = false) {
    this.root = buildStates(stops.filter((stop) => stop !== ''));
    this.includeStop = includeStop;
    this.state = this.root;
  }

  push(text: string): StopMatch {
    if (this.found !== undefined) return { text: '', stop: this.found };
    for (let i = 0; i < text.length; i++) {
      this.state = this.step(text.charAt(i));
      const { stop } = this.state;
      if (stop === undefined) continue;
      const seen = this.held + text.slice(0, i + 1);
      this.found = stop;
      this.held = '';
      return { text: this.includeStop ? seen : seen.slice(0, seen.length - stop.length), stop };
    }
    const seen = this.held + text;
    const safe = seen.length - this.state.depth;
    this.held = seen.slice(safe);
    return { text: seen.slice(0, safe) };
  }

  /** What is still held back, once no more text comes. */
  flush(): string {
    const text = this.held;
    this.held = '';
    this.state = this.root;
    return text;
  }

  private step(char: string): StopState {
    for (let state: StopState | undefined = this.state; state !== undefined; state = state.fallback) {
      const next = state.next.get(char);
      if (next !== undefined) return next;
    }
    return this.root;
  }
}

function buildStates(stops: readonly string[]): StopState {
  const root: StopState = { next: new Map(), fallback: undefined, depth: 0, stop: undefined };
  for (const stop of stops) {
    let state = root;
    for (let i = 0; i < stop.length; i++) {
      const char = stop.charAt(i);
      let next = state.next.get(char);
      if (next === undefined) {
        next = { next: new Map(), fallback: root, depth: state.depth + 1, stop: undefined };
        state.next.set(char, next);
      }
      state = next;
    }
    state.stop = stop;
  }
  linkFallbacks(root);
  return root;
}

function linkFallbacks(root: StopState): void {
  const queue = [...root.next.values()];
  for (let state = queue.shift(); state !== undefined; state = queue.shift()) {
    for (const [char, next] of state.next) {
      let fallback = state.fallback;
      while (fallback !== undefined && !fallback.next.has(char)) fallback = fallback.fallback;
      next.fallback = fallback?.next.get(char) ?? root;
      next.stop ??= next.fallback.stop;
      queue.push(next);
    }
  }
}
