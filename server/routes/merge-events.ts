// SPDX-License-Identifier: MIT
// Several engine requests of one HTTP request, started together and read as one.

import type { Engine, GenerationEvent, GenerationRequest } from '../../engine/index.ts';

export interface PromptEvents {
  /** Which of the requests. */
  prompt: number;
  events: GenerationEvent[];
}

type Source = AsyncIterator<GenerationEvent[]>;

/**
 * Starts every request and resolves when the engine has accepted all of them.
 * @throws EngineError of the first that is refused; the caller aborts the others through their signal.
 */
export async function startAll(engine: Engine, requests: readonly GenerationRequest[]): Promise<AsyncGenerator<PromptEvents>> {
  const sources = requests.map((request) => engine.generate(request)[Symbol.asyncIterator]());
  const firsts = await Promise.all(sources.map((source) => source.next()));
  return sources.length === 1 ? only(sources[0]!, firsts[0]!) : merged(sources, firsts);
}

/** One source is read as its events are asked for, so that a slow client is felt by the engine's queue, not by one here. */
async function* only(source: Source, first: IteratorResult<GenerationEvent[]>): AsyncGenerator<PromptEvents> {
  try {
    for (let result = first; result.done !== true; result = await source.next()) yield { prompt: 0, events: result.value };
  } finally {
    await source.return?.();
  }
}

async function* merged(sources: Source[], firsts: IteratorResult<GenerationEvent[]>[]): AsyncGenerator<PromptEvents> {
  const ready: PromptEvents[] = [];
  let live = sources.length;
  let failure: { error: unknown } | undefined;
  let wake = (): void => undefined;
  const pump = async (source: Source, prompt: number): Promise<void> => {
    for (let result = firsts[prompt]!; result.done !== true; result = await source.next()) {
      ready.push({ prompt, events: result.value });
      wake();
    }
  };
  for (const [prompt, source] of sources.entries()) {
    pump(source, prompt)
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => {
        live -= 1;
        wake();
      });
  }
  try {
    for (;;) {
      const next = ready.shift();
      if (next !== undefined) yield next;
      else if (failure !== undefined) throw failure.error;
      else if (live === 0) return;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    for (const source of sources) void source.return?.();
  }
}
