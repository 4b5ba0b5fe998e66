// SPDX-License-Identifier: MIT
// The schema of server/config.ts as text: the options part of --help, and the table of the README.

import { configSchema, environmentName, flagName, isSwitch, optionKeys, optionMeta } from '../config.ts';
import type { OptionKey } from '../config.ts';
import { formatBytes, formatDuration } from '../option-types.ts';
import type { OptionMeta } from '../option-types.ts';

const groups: OptionMeta['group'][] = ['Model', 'Engine', 'Server', 'Limits'];

/** The default as a reader would write it; empty when there is none. */
function defaultText(key: OptionKey): string {
  const meta = optionMeta(key);
  if (meta.defaultText !== undefined) return meta.defaultText;
  const result = configSchema.shape[key].safeParse(undefined);
  const value: unknown = result.data;
  if (value === undefined) return '';
  if (key.endsWith('Bytes')) return formatBytes(Number(value));
  if (key.endsWith('Ms')) return formatDuration(Number(value));
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  return String(value);
}

function usage(key: OptionKey): string {
  const name = flagName(key);
  return isSwitch(key) ? `--[no-]${name}` : `--${name} ${optionMeta(key).value}`;
}

/** Options of the given groups, for --help. */
export function optionsHelp(shown: readonly OptionMeta['group'][] = groups): string {
  const sections = shown.map((group) => {
    const lines = optionKeys
      .filter((key) => optionMeta(key).group === group)
      .map((key) => {
        const byDefault = defaultText(key);
        const about = optionMeta(key).about.replaceAll('`', '');
        return `  ${usage(key)}\n      ${about}${byDefault === '' ? '' : ` (default: ${byDefault.replaceAll('`', '')})`}`;
      });
    return `${group}:\n${lines.join('\n')}`;
  });
  return `${sections.join('\n\n')}\n\nEvery option may also be given as an environment variable (--kv-cache is TWELVEX_KV_CACHE)
or in a JSON file named with --config FILE ({ "kv-cache": "fp8" }). Flags win over the environment, and that over the file.`;
}

/** Markdown table of every option; README.md holds it between markers and a test compares. */
export function optionsTable(): string {
  const rows = groups.flatMap((group) =>
    optionKeys
      .filter((key) => optionMeta(key).group === group)
      .map((key) => {
        const cells = [`\`${usage(key)}\``, `\`${environmentName(key)}\``, defaultText(key), optionMeta(key).about];
        return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
      }),
  );
  return ['| option | environment | default | |', '|---|---|---|---|', ...rows].join('\n');
}
