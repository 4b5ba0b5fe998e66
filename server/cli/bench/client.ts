// SPDX-License-Identifier: MIT
// One benchmark request over a streaming OpenAI endpoint, timed chunk by chunk.

import { performance } from 'node:perf_hooks';
import type { Dispatcher } from 'undici';
import type { Sample } from './measure.ts';
import type { PlannedRequest } from './workload.ts';

export interface Target {
  dispatcher: Dispatcher;
  origin: string;
  /** Path in front of /v1. */
  base: string;
  endpoint: 'completions' | 'chat';
  model: string;
  headers: Record<string, string>;
  /** Further body fields: temperature, ignore_eos… */
  extra: Record<string, unknown>;
  /** Text of a token prompt, for the chat endpoint. */
  textOf: (tokens: number[]) => Promise<string>;
}

interface Chunk {
  choices?: { text?: string; delta?: { content?: string | null; reasoning_content?: string | null; tool_calls?: unknown[] } }[];
  usage?: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details?: { cached_tokens?: number } } | null;
  error?: { message?: string };
}

/** Sends a request and reads its stream to the end. Never throws: a failure is a sample with `ok` false. */
export async function sendRequest(target: Target, request: PlannedRequest): Promise<Sample> {
  const body = await bodyOf(target, request);
  const startMs = performance.now();
  const sample: Sample = {
    ok: false,
    promptTokens: request.prompt.length,
    cachedTokens: 0,
    outputTokens: 0,
    startMs,
    firstMs: startMs,
    endMs: startMs,
    chunkMs: [],
  };
  try {
    const response = await target.dispatcher.request({
      origin: target.origin,
      path: `${target.base}/v1/${target.endpoint === 'chat' ? 'chat/completions' : 'completions'}`,
      method: 'POST',
      headers: { 'content-type': 'application/json', ...target.headers },
      body,
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    if (response.statusCode !== 200)
      throw new Error(`HTTP ${response.statusCode}: ${(await response.body.text()).slice(0, 200)}`);
    await readStream(response.body, sample);
    sample.ok = sample.chunkMs.length > 0;
    if (!sample.ok) sample.error = 'the stream held no text';
  } catch (error) {
    sample.error = error instanceof Error ? error.message : String(error);
  }
  sample.firstMs = sample.chunkMs[0] ?? sample.endMs;
  sample.endMs = sample.chunkMs.at(-1) ?? performance.now();
  return sample;
}

async function bodyOf(target: Target, request: PlannedRequest): Promise<string> {
  const input =
    target.endpoint === 'chat'
      ? { messages: [{ role: 'user', content: await target.textOf(request.prompt) }] }
      : { prompt: request.prompt };
  return JSON.stringify({
    model: target.model,
    ...input,
    max_tokens: request.outputTokens,
    stream: true,
    stream_options: { include_usage: true },
    ...target.extra,
  });
}

async function readStream(body: AsyncIterable<Buffer>, sample: Sample): Promise<void> {
  let held = '';
  for await (const bytes of body) {
    const now = performance.now();
    held += bytes.toString('utf8');
    const events = held.split('\n\n');
    held = events.pop()!;
    for (const event of events) {
      if (!event.startsWith('data: ') || event === 'data: [DONE]') continue;
      const chunk = JSON.parse(event.slice(6)) as Chunk;
      if (chunk.error) throw new Error(chunk.error.message ?? 'error event');
      if (hasText(chunk)) sample.chunkMs.push(now);
      if (chunk.usage) {
        sample.promptTokens = chunk.usage.prompt_tokens;
        sample.outputTokens = chunk.usage.completion_tokens;
        sample.cachedTokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
      }
    }
  }
}

function hasText(chunk: Chunk): boolean {
  const choice = chunk.choices?.[0];
  return Boolean(choice?.text || choice?.delta?.content || choice?.delta?.reasoning_content || choice?.delta?.tool_calls?.length);
}
