// SPDX-License-Identifier: MIT

import type { JsonText } from '../types.ts';
import type { EventList } from './content-events.ts';
import { ToolArguments } from './tool-arguments.ts';
import { toolParameters, type ToolParameters } from './tool-schemas.ts';

/** Writes the events of one call after the other. */
export class ToolCallWriter {
  /** Calls that were ended by their own closing tag or by what closes it. */
  finished = 0;
  private readonly events: EventList;
  private readonly schemas: ReadonlyMap<string, ToolParameters>;
  private index = -1;
  private arguments = new ToolArguments(undefined);

  constructor(events: EventList, tools: readonly JsonText[]) {
    this.events = events;
    this.schemas = toolParameters(tools);
  }

  begin(name: string): void {
    this.arguments = new ToolArguments(this.schemas.get(name));
    this.events.add({ kind: 'tool-call', index: ++this.index, name });
  }

  /** @param flag the markup's `string` attribute */
  beginParameter(name: string, flag: string | undefined): void {
    this.write(this.arguments.beginParameter(name, flag === undefined ? undefined : flag === 'true'));
  }

  value(text: string): void {
    this.write(this.arguments.value(text));
  }

  endParameter(): void {
    this.write(this.arguments.endParameter());
  }

  end(finished: boolean): void {
    this.write(this.arguments.end());
    this.events.add({ kind: 'tool-end', index: this.index });
    if (finished) this.finished++;
  }

  private write(text: string): void {
    this.events.add({ kind: 'tool-arguments', index: this.index, text });
  }
}
