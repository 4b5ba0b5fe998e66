// SPDX-License-Identifier: MIT
// The Vercel AI SDK against the demo model: its OpenAI-compatible and its DeepSeek provider, and its OpenAI provider, which
// speaks the Responses API.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createDeepSeek } from '@ai-sdk/deepseek';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import type { LanguageModel } from 'ai';
import { demoServer } from '../helpers/demo-server.ts';
import type { DemoServer } from '../helpers/demo-server.ts';
import { eventually } from '../helpers/http.ts';

let server: DemoServer;
before(async () => {
  server = await demoServer();
});
after(() => server.close());

// The DeepSeek provider asks for any JSON and tells the schema in the prompt; the SDK warns of that.
Object.assign(globalThis, { AI_SDK_LOG_WARNINGS: false });

interface Provider {
  name: string;
  model: (id: string) => LanguageModel;
  /** It sends the schema of an object as response_format. */
  sendsSchema: boolean;
  /** It shows thinking; the OpenAI provider shows summaries of it only. */
  showsReasoning: boolean;
}

const providers: Provider[] = [
  {
    name: '@ai-sdk/openai-compatible',
    model: (id) =>
      createOpenAICompatible({
        ...{ name: 'twelvex', baseURL: `${server.url}/v1` },
        ...{ includeUsage: true, supportsStructuredOutputs: true },
      })(id),
    sendsSchema: true,
    showsReasoning: true,
  },
  {
    name: '@ai-sdk/deepseek',
    model: (id) => createDeepSeek({ baseURL: server.url, apiKey: 'none' })(id),
    sendsSchema: false,
    showsReasoning: true,
  },
  {
    name: '@ai-sdk/openai',
    model: (id) => createOpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' })(id),
    sendsSchema: true,
    showsReasoning: false,
  },
];

const weather = tool({
  description: 'Get the current weather in a city',
  inputSchema: jsonSchema<{ city: string }>({
    type: 'object',
    properties: { city: { type: 'string', description: 'The city' } },
    required: ['city'],
  }),
  execute: ({ city }) => (city === 'Oslo' ? '7 degrees, rainy' : 'unknown'),
});

for (const { name, model: provide, sendsSchema, showsReasoning } of providers) {
  describe(name, () => {
    const settings = { temperature: 0, maxRetries: 0 };

    test('generates text with reasoning and usage', async () => {
      const result = await generateText({ ...settings, model: provide('demo'), prompt: 'What is 12 + 30?' });
      assert.match(result.text, /42/);
      assert.equal((result.reasoningText ?? '').length > 0, showsReasoning);
      assert.equal(result.finishReason, 'stop');
      assert.ok((result.usage.inputTokens ?? 0) > 0 && (result.usage.outputTokens ?? 0) > 0);
      assert.ok((result.usage.reasoningTokens ?? 0) > 0);
    });

    test('streams reasoning before text', async () => {
      const { fullStream } = streamText({ ...settings, model: provide('demo'), prompt: 'What is 12 + 30?' });
      const kinds: string[] = [];
      let text = '';
      for await (const part of fullStream) {
        if (part.type === 'error') throw part.error;
        if (kinds.at(-1) !== part.type) kinds.push(part.type);
        if (part.type === 'text-delta') text += part.text;
      }
      assert.match(text, /42/);
      const order = [...(showsReasoning ? ['reasoning-delta'] : []), 'text-delta', 'finish'];
      assert.deepEqual(
        kinds.filter((kind) => order.includes(kind)),
        order,
      );
    });

    test('goes through a loop of tool calls in a stream', async () => {
      const result = streamText({
        ...settings,
        model: provide('demo'),
        prompt: "What's the weather in Oslo?",
        tools: { get_weather: weather },
        stopWhen: stepCountIs(3),
      });
      assert.match(await result.text, /rainy/);
      const steps = await result.steps;
      assert.deepEqual(
        steps.map((step) => [step.finishReason, step.toolCalls.map((call) => call.input as unknown)]),
        [
          ['tool-calls', [{ city: 'Oslo' }]],
          ['stop', []],
        ],
      );
    });

    test('generates an object', async () => {
      const schema = jsonSchema<{ name: string; age: number }>({
        type: 'object',
        properties: { name: { type: 'string' }, age: { type: 'integer' } },
        required: ['name', 'age'],
        additionalProperties: false,
      });
      const prompt = 'Write JSON with name and age of a fox that is 12 years old.';
      const { object } = await generateObject({ ...settings, model: provide('demo'), prompt, schema });
      assert.equal(typeof object, 'object');
      if (sendsSchema) assert.deepEqual([typeof object.name, Number.isInteger(object.age)], ['string', true]);
    });

    test('is aborted in the middle, and the engine stops', async () => {
      const leave = new AbortController();
      const { fullStream } = streamText({
        ...settings,
        model: provide('demo'),
        prompt: 'Tell me a story.',
        temperature: 1,
        abortSignal: leave.signal,
      });
      const kinds: string[] = [];
      for await (const part of fullStream) {
        kinds.push(part.type);
        if (part.type === 'text-delta' || part.type === 'reasoning-start') leave.abort();
      }
      assert.ok(kinds.includes('abort'));
      await eventually(() => server.engine.stats().running === 0, 'the end of the request');
    });

    test('fails with the status and the message of the server', async () => {
      const late = generateText({ ...settings, model: provide('gpt-5'), prompt: 'x' });
      await assert.rejects(
        late,
        (error) => APICallError.isInstance(error) && error.statusCode === 404 && /gpt-5/.test(error.message),
      );
    });
  });
}
