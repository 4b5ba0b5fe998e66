// SPDX-License-Identifier: MIT
// The page that shows the API, in headless Chromium.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { operations } from '../../server/openapi.ts';
import { chromiumPath, launchOptions } from '../helpers/browser.ts';
import { testServer } from '../helpers/http.ts';
import { scriptedEngine } from '../helpers/scripted-engine.ts';

const skip = existsSync(chromiumPath) ? false : `no browser at ${chromiumPath}; install the package chromium`;

test('/docs shows every operation with its fields and a call to copy', { skip }, async (t) => {
  const { url } = await testServer(t, scriptedEngine([]));
  const browser = await chromium.launch(launchOptions);
  t.after(() => browser.close());
  const page = await browser.newPage();
  page.on('pageerror', (error) => assert.fail(`the page failed: ${error.message}`));
  page.on('console', (message) => assert.notEqual(message.type(), 'error', message.text()));
  await page.goto(`${url}/docs`);
  await page.locator('details').first().waitFor();
  assert.equal(await page.locator('details').count(), operations.length);
  const chat = page.locator('details', { hasText: 'POST/v1/chat/completions –' });
  await chat.locator('summary').click();
  assert.match((await chat.locator('tr', { hasText: /^messages/ }).textContent()) ?? '', /required$/);
  assert.match((await chat.locator('tr', { hasText: /^temperature/ }).textContent()) ?? '', /0 to 2/);
  assert.match((await chat.locator('pre').textContent()) ?? '', /^curl http:\/\/127\.0\.0\.1:\d+\/v1\/chat\/completions -H/);
  await page.setViewportSize({ width: 390, height: 800 });
  assert.equal(await page.evaluate('document.documentElement.scrollWidth'), 390, 'it fits a phone');
});
