// SPDX-License-Identifier: MIT
// Makes the README's picture: the playground talking to the demo model. usage: npm run screenshot

import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { launchOptions } from '../helpers/browser.ts';
import { serveDemo } from '../helpers/served-demo.ts';

const target = fileURLToPath(new URL('../../../server/playground/screenshot.png', import.meta.url));
const demo = await serveDemo();
const browser = await chromium.launch(launchOptions);
const page = await browser.newPage({ viewport: { width: 1180, height: 760 }, deviceScaleFactor: 1.5 });
await page.goto(demo.url);
await page.locator('#temperature').fill('0');
for (const text of ['What is 34 + 27?', 'What is the weather in Oslo?']) {
  await page.locator('#use-tools').setChecked(text.includes('weather'));
  await page.fill('#input', text);
  await page.press('#input', 'Enter');
  await page.locator('article:last-child footer:not(:empty)').waitFor();
}
await page.waitForTimeout(1500);
await page.screenshot({ path: target });
await browser.close();
await demo.stop();
console.log(`wrote ${target}`);
