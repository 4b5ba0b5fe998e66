// SPDX-License-Identifier: MIT
// Command line → options and operands. Flags come from the schema in server/config.ts; a command may add its own.

import { ConfigError, flagName, isList, isSwitch, optionKeys, unknownOption } from '../config.ts';
import type { GivenOptions, OptionKey } from '../config.ts';

export interface ParsedArguments extends GivenOptions {
  /** Arguments that are not flags. */
  operands: string[];
  /** Flags of the command itself, by name. */
  own: Record<string, string>;
  help: boolean;
}

/** What a command takes beside the options of all. */
export interface OwnArguments {
  flags?: readonly string[];
  /** Most arguments that are not flags. */
  operands?: number;
}

/**
 * Reads `--name value`, `--name=value`, `--switch` and `--no-switch`. Of a flag given twice the last
 * counts; those of a list add up.
 * @throws ConfigError for an unknown flag, a missing value, one too many or an operand too many.
 */
export function parseArguments(
  args: readonly string[],
  { flags: ownFlags = [], operands = 0 }: OwnArguments = {},
): ParsedArguments {
  const keys = new Map<string, OptionKey>(optionKeys.map((key) => [flagName(key), key]));
  const known = [...keys.keys(), ...ownFlags, 'config', 'help'];
  const parsed: ParsedArguments = { values: {}, operands: [], own: {}, help: false };
  const rest = [...args];
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === '-h') arg = '--help';
    if (!arg.startsWith('--')) {
      if (arg.startsWith('-') && arg.length > 1) throw new ConfigError(unknownOption(arg.slice(1), known, '--'));
      parsed.operands.push(arg);
      continue;
    }
    const [name = '', inline] = splitOnce(arg.slice(2));
    const take = (): string => inline ?? takeValue(name, rest);
    const negated = name.startsWith('no-') ? keys.get(name.slice(3)) : undefined;
    const key = keys.get(name);
    if (name === 'help') parsed.help = true;
    else if (name === 'config') parsed.file = take();
    else if (ownFlags.includes(name)) parsed.own[name] = take();
    else if (negated !== undefined && isSwitch(negated)) parsed.values[negated] = switchedOff(name, inline);
    else if (key === undefined) throw new ConfigError(unknownOption(name, known, '--'));
    else if (isSwitch(key)) parsed.values[key] = inline ?? true;
    else parsed.values[key] = isList(key) ? join(parsed.values[key], take()) : take();
  }
  const extra = parsed.operands[operands];
  if (extra !== undefined && !parsed.help) {
    throw new ConfigError(
      `unexpected argument ${JSON.stringify(extra)}; a model is named with --model, a switch is turned off with --no-NAME`,
    );
  }
  return parsed;
}

function splitOnce(arg: string): [string, string?] {
  const at = arg.indexOf('=');
  return at < 0 ? [arg] : [arg.slice(0, at), arg.slice(at + 1)];
}

function takeValue(name: string, rest: string[]): string {
  const value = rest.shift();
  if (value === undefined || value.startsWith('--')) throw new ConfigError(`--${name} needs a value`);
  return value;
}

function switchedOff(name: string, inline: string | undefined): false {
  if (inline === undefined) return false;
  throw new ConfigError(`--${name} takes no value, got ${JSON.stringify(inline)}; use --${name} or --${name.slice(3)}`);
}

function join(before: unknown, value: string): unknown {
  return before === undefined ? value : [before, value].flat();
}
