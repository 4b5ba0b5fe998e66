// SPDX-License-Identifier: MIT

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { installRoot } from './config.ts';

/** Version of package.json. */
export const version: string = (JSON.parse(readFileSync(join(installRoot, 'package.json'), 'utf8')) as { version: string })
  .version;
