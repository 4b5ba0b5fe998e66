// SPDX-License-Identifier: MIT

import { setImmediate } from 'node:timers/promises';

/** Work on fewer characters is done before anybody notices. */
const FEW_CHARACTERS = 100_000;

/**
 * Ends the turn of the event loop between two pieces of work on a long text. Each piece may take tens of milliseconds for a
 * prompt of megabytes; together they would hold up streams and health checks.
 */
export async function letOthersRun(characters: number): Promise<void> {
  if (characters >= FEW_CHARACTERS) await setImmediate();
}

/** Milliseconds of one piece of work; streams and health checks wait no longer for it. */
const TURN_MS = 4;

/** Does work that may be interrupted wherever it yields, a few milliseconds in each turn of the event loop. */
export async function inTurns<T>(work: Generator<void, T>): Promise<T> {
  for (;;) {
    const until = performance.now() + TURN_MS;
    do {
      const step = work.next();
      if (step.done === true) return step.value;
    } while (performance.now() < until);
    await setImmediate();
  }
}

/** Does all of it in this turn. */
export function atOnce<T>(work: Generator<void, T>): T {
  for (;;) {
    const step = work.next();
    if (step.done === true) return step.value;
  }
}
