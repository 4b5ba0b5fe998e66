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
