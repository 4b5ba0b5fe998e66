// SPDX-License-Identifier: MIT
// npm keeps options that stand in front of `--`, and passes on at most their values.

import { SetupError } from './steps.mjs';

/** @throws SetupError naming an option of the server that npm took, which would be ignored. */
export function refuseTakenOptions(flags, environment = process.env) {
  const taken = flags.find((flag) => environment[`npm_config_${flag.replaceAll('-', '_')}`] !== undefined);
  if (taken === undefined) return;
  throw new SetupError(`npm took --${taken} for itself. Options of twelvex go behind --, as in\n    npm start -- --${taken} …`);
}
