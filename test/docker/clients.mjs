// SPDX-License-Identifier: MIT
// Chats through the openai SDK, then sends SIGTERM to the server in the middle of a stream and reads the stream to its end.
// usage: node clients.mjs BASE_URL SERVER_PID
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const [baseURL, pid] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: 'user', content: 'Tell me a story about a fox.' }];

const answer = await client.chat.completions.create({ model, messages, max_tokens: 40 });
assert.ok(answer.usage.completion_tokens > 0);
console.log(`answer: ${JSON.stringify(answer.choices[0].message.content ?? answer.choices[0].message.reasoning_content)}`);

const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  max_tokens: 400,
  temperature: 0,
  ignore_eos: true,
  stream_options: { include_usage: true },
});
let chunks = 0;
let finish;
let usage;
for await (const chunk of stream) {
  if (++chunks === 5) process.kill(Number(pid), 'SIGTERM');
  if (chunks === 10) {
    const refused = await client.chat.completions.create({ model, messages, max_tokens: 1 }).then(
      () => 200,
      (error) => error.status ?? error.constructor.name,
    );
    assert.ok(refused === 503 || refused === 'APIConnectionError', `a new request while draining got ${refused}`);
  }
  finish = chunk.choices[0]?.finish_reason ?? finish;
  usage = chunk.usage ?? usage;
}
assert.equal(finish, 'length');
assert.equal(usage.completion_tokens, 400);
const { completion_tokens: tokens } = usage;
console.log(`${chunks} chunks, ${tokens} tokens, ${finish}: complete although the server was told to stop at chunk 5`);
