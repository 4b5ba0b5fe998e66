// SPDX-License-Identifier: MIT
// The playground in headless Chromium, over a scripted engine. `npm run screenshot` makes the README's picture from the
// demo model.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { chromium } from 'playwright-core';
import type { Page } from 'playwright-core';
import type { Engine } from '../../engine/index.ts';
import { chromiumPath, launchOptions } from '../helpers/browser.ts';
import { testServer } from '../helpers/http.ts';
import { answer, delay, end, reasoning, scriptedEngine, tool } from '../helpers/scripted-engine.ts';

const skip = existsSync(chromiumPath) ? false : `no browser at ${chromiumPath}; install the package chromium`;

async function openPage(t: TestContext, engine: Engine): Promise<Page> {
  const { url } = await testServer(t, engine);
  const browser = await chromium.launch(launchOptions);
  t.after(() => browser.close());
  const page = await browser.newPage();
  page.on('pageerror', (error) => assert.fail(`the page failed: ${error.message}`));
  page.on('console', (message) => assert.notEqual(message.type(), 'error', message.text()));
  await page.goto(url);
  return page;
}

async function say(page: Page, text: string): Promise<void> {
  await page.fill('#input', text);
  await page.press('#input', 'Enter');
}

/** Waits until the element's text matches. */
async function becomes(page: Page, selector: string, pattern: RegExp): Promise<void> {
  let text: string | null = null;
  for (let tries = 0; tries < 500; tries++) {
    text = await page.locator(selector).last().textContent();
    if (pattern.test(text ?? '')) return;
    await page.waitForTimeout(10);
  }
  assert.fail(`${selector} became ${JSON.stringify(text)}, expected ${String(pattern)}`);
}

describe('playground', { skip }, () => {
  test('streams thinking and answer, and shows figures', async (t) => {
    const engine = scriptedEngine([reasoning('Let me see.'), delay(50), answer('Hello'), delay(30), answer(' <b>you</b>')]);
    const page = await openPage(t, engine);
    await becomes(page, '#model', /scripted/);
    await page.uncheck('#thinking');
    await page.check('#thinking');
    await say(page, 'Hi there');
    await becomes(page, 'article.assistant footer', /./);
    assert.equal(await page.textContent('article.user .text'), 'Hi there');
    assert.equal(await page.textContent('article.assistant .reasoning pre'), 'Let me see.');
    assert.equal(await page.textContent('article.assistant .text'), 'Hello <b>you</b>', 'text is never markup');
    assert.match((await page.textContent('#live-ttft'))!, /^\d+ ms$/);
    assert.match((await page.textContent('article.assistant footer'))!, /stop · \d+ \+ \d+ tokens/);
    await becomes(page, '#live-queue', /^\d+ \/ \d+$/);
  });

  test('sends parameters, the system prompt and the turns so far', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const page = await openPage(t, engine);
    await page.fill('#system', 'Be brief.');
    await page.fill('#seed', '7');
    await page.fill('#max_tokens', '5');
    for (const text of ['one', 'two']) {
      await say(page, text);
      await becomes(page, 'article:last-child footer', /stop/);
    }
    const [, second] = engine.requests;
    assert.equal(second?.sampling.seed, 7n);
    assert.equal(second.maxTokens, 5);
    assert.ok(second.input.kind === 'chat');
    assert.deepEqual(
      second.input.messages.map(({ role, content }) => [role, content]),
      [
        ['system', 'Be brief.'],
        ['user', 'one'],
        ['assistant', 'ok'],
        ['user', 'two'],
      ],
    );
  });

  test('lets the person answer tool calls', async (t) => {
    const engine = scriptedEngine((request) =>
      request.input.kind === 'chat' && request.input.messages.some(({ role }) => role === 'tool')
        ? [answer('It rains.')]
        : [tool('get_weather', ['{"city"', ': "Oslo"}']), end('tool_calls')],
    );
    const page = await openPage(t, engine);
    await page.check('#use-tools');
    await say(page, 'Weather in Oslo?');
    await page.waitForSelector('.call button:visible');
    assert.equal(await page.textContent('.call code'), 'get_weather({"city": "Oslo"})');
    await page.fill('.call input', 'rain');
    await page.click('.call button');
    await becomes(page, 'article:last-child .text', /^It rains\.$/);
    const input = engine.requests[1]!.input;
    assert.ok(input.kind === 'chat');
    assert.equal(input.messages.at(-1)!.content, 'rain');
  });

  test('stops an answer, and shows what the server refuses', async (t) => {
    const engine = scriptedEngine([answer('a'), delay(60_000), answer('b')]);
    const page = await openPage(t, engine);
    await say(page, 'Hi');
    await becomes(page, 'article.assistant .text', /^a$/);
    await page.click('#stop');
    await becomes(page, 'article.assistant footer', /stopped/);
    for (let tries = 0; engine.aborted === 0 && tries < 100; tries++) await page.waitForTimeout(20);
    assert.equal(engine.aborted, 1);
    assert.equal(await page.isVisible('#send'), true);
  });

  test('fits a phone', async (t) => {
    const page = await openPage(t, scriptedEngine([answer('ok')]));
    await page.setViewportSize({ width: 390, height: 800 });
    const overflow = await page.evaluate<number>('document.documentElement.scrollWidth - window.innerWidth');
    assert.ok(overflow <= 0, `${overflow} px wider than the screen`);
  });
});
