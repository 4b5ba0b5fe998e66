// SPDX-License-Identifier: MIT
// Several engine requests of one HTTP request, started together and read side by side.

import type { Engine, GenerationEvent, GenerationRequest } from '../../engine/index.ts';

/** A request that the engine has accepted. */
export interface Accepted {
  source: AsyncIterator<GenerationEvent[]>;
  first: IteratorResult<GenerationEvent[]>;
}

/**
 * Starts every request and resolves when the engine has accepted all of them.
 * @throws EngineError of the first that is refused; the caller aborts the others through their signal.
 */
export async function startAll(engine: Engine, requests: readonly GenerationRequest[]): Promise<Accepted[]> {
  const sources = requests.map((request) => engine.generate(request)[Symbol.asyncIterator]());
  const firsts = await Promise.all(sources.map((source) => source.next()));
  return sources.map((source, prompt) => ({ source, first: firsts[prompt]! }));
}

/**
 * Gives every batch of events to `use`, with the number of its request, until all requests have ended. A request is read on
 * when `use` is done with what it brought: a slow client is felt by the engine's queue of each request, none builds up here.
 * @throws what a request or `use` fails with first; `use` is not called again.
 */
export async function readAll(
  accepted: readonly Accepted[],
  use: (prompt: number, events: GenerationEvent[]) => Promise<void> | undefined,
): Promise<void> {
  let failed = false;
  const read = async ({ source, first }: Accepted, prompt: number): Promise<void> => {
    for (let result = first; result.done !== true && !failed; result = await source.next()) {
      const pending = use(prompt, result.value);
      // A promise for every token would cost more than the rest of the loop.
      if (pending !== undefined) await pending;
    }
  };
  try {
    await Promise.all(accepted.map(read));
  } finally {
    failed = true;
    for (const { source } of accepted) void source.return?.();
  }
}
