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

/** An empty page in a browser; what a page says of answers with an error status is expected where a test makes them. */
async function newPage(t: TestContext, expected: RegExp = /^$/): Promise<Page> {
  const browser = await chromium.launch(launchOptions);
  t.after(() => browser.close());
  const page = await browser.newPage();
  page.on('pageerror', (error) => assert.fail(`the page failed: ${error.message}`));
  page.on('console', (message) => assert.ok(message.type() !== 'error' || expected.test(message.text()), message.text()));
  return page;
}

async function openPage(t: TestContext, engine: Engine, expected?: RegExp): Promise<Page> {
  const { url } = await testServer(t, engine);
  const page = await newPage(t, expected);
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

  test('takes back a turn that the server refuses, so that the next is not refused for it', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const page = await openPage(t, engine, /status of 400/);
    await page.fill('#max_tokens', '-1');
    await say(page, 'first try');
    await becomes(page, 'article.wrong .text', /max_tokens/);
    assert.equal(await page.inputValue('#input'), 'first try');
    await page.fill('#max_tokens', '');
    await say(page, 'second try');
    await becomes(page, 'article.assistant .text', /^ok$/);
    const [{ input } = {}] = engine.requests;
    assert.ok(input?.kind === 'chat');
    assert.deepEqual(
      input.messages.map(({ content }) => content),
      ['second try'],
    );
  });

  test('starts a new conversation in the middle of an answer, without any of the old one', async (t) => {
    const engine = scriptedEngine((request) =>
      request.input.kind === 'chat' && request.input.messages[0]?.content === 'old'
        ? [answer('of the old'), delay(60_000)]
        : [answer('of the new')],
    );
    const page = await openPage(t, engine);
    await say(page, 'old');
    await becomes(page, 'article.assistant .text', /old/);
    await page.click('#clear');
    await say(page, 'new');
    await becomes(page, 'article.assistant .text', /new/);
    const input = engine.requests[1]!.input;
    assert.ok(input.kind === 'chat');
    assert.deepEqual(
      input.messages.map(({ content }) => content),
      ['new'],
    );
    assert.equal(await page.locator('article').count(), 2);
  });

  test('names the model once it is loaded, and asks for a key where one is needed', async (t) => {
    const { lifecycle, url } = await testServer(t, undefined, { apiKey: 'secret' });
    const page = await newPage(t, /status of (401|503)/);
    await page.goto(url);
    await becomes(page, '#model', /asks for an API key/);
    await page.fill('#key', 'secret');
    await page.press('#key', 'Tab');
    await becomes(page, '#model', /waiting for the model/);
    lifecycle.ready(scriptedEngine([]));
    await becomes(page, '#model', /scripted · [\d,.]+ tokens/);
  });

  test('reads streams in browsers that cannot iterate them', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('ok')]));
    const page = await newPage(t);
    await page.addInitScript('delete ReadableStream.prototype[Symbol.asyncIterator]; delete ReadableStream.prototype.values');
    await page.goto(url);
    await say(page, 'Hi');
    await becomes(page, 'article.assistant .text', /^ok$/);
  });

  test('stops an answer', async (t) => {
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

  test('keeps the newest text in view, behind a long question too', async (t) => {
    const lines = (count: number): string => Array.from({ length: count }, (_, index) => `line ${index}`).join('\n');
    const page = await openPage(t, scriptedEngine([answer(lines(40)), delay(20), answer(`\n${lines(40)}`)]));
    for (const text of ['one', lines(40)]) {
      await say(page, text);
      await becomes(page, 'article:last-child footer', /stop/);
      const hidden = '(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)(conversation)';
      assert.ok((await page.evaluate<number>(hidden)) < 2);
    }
  });

  test('fits a phone: the conversation at once, the parameters on demand', async (t) => {
    const page = await openPage(t, scriptedEngine([answer('ok')]));
    await page.setViewportSize({ width: 390, height: 800 });
    const overflow = await page.evaluate<number>('document.documentElement.scrollWidth - window.innerWidth');
    assert.ok(overflow <= 0, `${overflow} px wider than the screen`);
    const bottomOf = async (selector: string): Promise<number> => {
      const box = (await page.locator(selector).boundingBox())!;
      return box.y + box.height;
    };
    assert.ok((await bottomOf('#composer')) <= 800);
    assert.equal(await page.isVisible('#system'), false);
    await page.click('#settings');
    assert.equal(await page.isVisible('#system'), true);
    assert.equal(await page.getAttribute('#settings', 'aria-expanded'), 'true');
    assert.ok((await bottomOf('#composer')) <= 800, 'the composer stays on the screen');
    await page.click('#settings');
    assert.equal(await page.isVisible('#system'), false);
  });
});
