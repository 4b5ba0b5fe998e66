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
const answered = (turns: number): Promise<void> =>
  page.locator(`article.assistant:nth-of-type(${turns}) footer:not(:empty)`).waitFor();
await page.check('#use-tools');
await page.fill('#input', 'What is the weather in Oslo?');
await page.press('#input', 'Enter');
await answered(2);
await page.fill('.call input', 'sunny, 14 degrees');
await page.click('.call button');
await answered(3);
await page.waitForTimeout(1500);
await page.screenshot({ path: target });
await browser.close();
await demo.stop();
console.log(`wrote ${target}`);
