// SPDX-License-Identifier: MIT
// Headless Chromium as the distribution packages it.

import type { LaunchOptions } from 'playwright-core';

export const chromiumPath = '/usr/bin/chromium';

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export const launchOptions: LaunchOptions = { executablePath: chromiumPath, args: flags };
