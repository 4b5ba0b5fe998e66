// SPDX-License-Identifier: MIT

/** What a completion turns out to consist of, in order. `index` counts the tool calls of one completion from 0. */
export type ContentEvent =
  | { kind: 'reasoning'; text: string }
  | { kind: 'answer'; text: string }
  | { kind: 'tool-call'; index: number; name: string }
  /** A piece of the arguments' JSON text; the pieces of one call make one valid object. */
  | { kind: 'tool-arguments'; index: number; text: string }
  | { kind: 'tool-end'; index: number };

/** Collects the events of one push; texts of the same kind that follow each other are joined. */
export class EventList {
  private events: ContentEvent[] = [];

  add(event: ContentEvent): void {
    const last = this.events.at(-1);
    if ('text' in event && event.text === '') return;
    if (last !== undefined && 'text' in last && 'text' in event && sameTarget(last, event)) last.text += event.text;
    else this.events.push(event);
  }

  take(): ContentEvent[] {
    const { events } = this;
    this.events = [];
    return events;
  }
}

function sameTarget(a: ContentEvent, b: ContentEvent): boolean {
  return a.kind === b.kind && (!('index' in a) || !('index' in b) || a.index === b.index);
}
