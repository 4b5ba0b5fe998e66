// SPDX-License-Identifier: MIT
// Where the project's files are. Tests run from the project root (npm test does).

import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const projectRoot = resolve(process.cwd());

export const demoModel = join(projectRoot, 'models/demo');

/** Text of a file given by its path from the project root. */
export function readProject(path: string): string {
  return readFileSync(join(projectRoot, path), 'utf8');
}

/** Paths from the project root of files below `folder` with one of the endings, without generated folders. */
export function projectFiles(folder: string, endings: string[]): string[] {
  const generated = /(^|\/)(node_modules|dist|build[^/]*)\//;
  return readdirSync(join(projectRoot, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => join(entry.parentPath, entry.name).slice(projectRoot.length + 1))
    .filter((path) => !generated.test(path))
    .sort();
}
