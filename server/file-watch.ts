// SPDX-License-Identifier: MIT
// Follows files by looking at them now and then: works for mounted secrets, whose links are swapped, and misses no change
// between reading a file and beginning to watch it.

import { statSync } from 'node:fs';
import { stat } from 'node:fs/promises';

/** What tells one state of a file from another; empty when it is not there. Take it before reading the file. */
export function fileState(file: string): string {
  const found = statSync(file, { throwIfNoEntry: false });
  return found === undefined ? '' : stateText(found);
}

function stateText({ ino, size, mtimeMs }: { ino: number; size: number; mtimeMs: number }): string {
  return `${ino}:${size}:${mtimeMs}`;
}

export interface FileWatch {
  stop(): void;
}

export interface WatchOptions {
  file: string;
  /** State that is known already, see fileState. */
  since: string;
  intervalMs: number;
  /** Called once for each state that differs from the one before. */
  onChange: () => void;
}

/** Looks until stopped; does not keep the process alive. */
export function watchFile({ file, since, intervalMs, onChange }: WatchOptions): FileWatch {
  let known = since;
  const look = async (): Promise<void> => {
    const state = await stat(file).then(stateText, () => '');
    if (state === known) return;
    known = state;
    onChange();
  };
  const timer = setInterval(() => void look(), intervalMs).unref();
  return { stop: () => clearInterval(timer) };
}
