// SPDX-License-Identifier: MIT
// Pieces of wire objects that chat and text completions share.

import type { FinishReason, GenerationEvent, TokenLogprob, Usage } from '../../engine/index.ts';

/** What is the same in every chunk of an answer. */
export interface AnswerHeader {
  id: string;
  /** Unix seconds. */
  created: number;
  model: string;
  fingerprint: string;
}

export interface WireUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
  completion_tokens_details: { reasoning_tokens: number };
  prompt_cache_hit_tokens: number;
  prompt_cache_miss_tokens: number;
}

/** Usage of a whole answer from that of its choices: the prompt counts once, what was generated adds up. */
export class UsageTotal {
  #prompt = 0;
  #cached = 0;
  #completion = 0;
  #reasoning = 0;

  /** Adds a prompt, computed once for all its choices. */
  addPrompt(promptTokens: number, cachedTokens: number): void {
    this.#prompt += promptTokens;
    this.#cached += cachedTokens;
  }

  /** Adds what one choice generated. */
  addCompletion(usage: Pick<Usage, 'completionTokens' | 'reasoningTokens'>): void {
    this.#completion += usage.completionTokens;
    this.#reasoning += usage.reasoningTokens;
  }

  /** `running`: tokens of choices that have not ended. */
  wire(running = 0): WireUsage {
    const completion = this.#completion + running;
    return {
      prompt_tokens: this.#prompt,
      completion_tokens: completion,
      total_tokens: this.#prompt + completion,
      prompt_tokens_details: { cached_tokens: this.#cached },
      completion_tokens_details: { reasoning_tokens: this.#reasoning },
      prompt_cache_hit_tokens: this.#cached,
      prompt_cache_miss_tokens: this.#prompt - this.#cached,
    };
  }
}

/** How far a prompt is computed, in llama.cpp's field names. */
export interface WireProgress {
  total: number;
  cache: number;
  processed: number;
  time_ms: number;
}

export function wireProgress(event: GenerationEvent & { kind: 'progress' }, elapsedMs: number): WireProgress {
  const { promptTokens: total, cachedTokens: cache, computedTokens: processed } = event;
  return { total, cache, processed, time_ms: elapsedMs };
}

/** Reasons that an answer can end with; the others are errors and never reach this. */
export function finishReason(reason: FinishReason): 'stop' | 'length' | 'tool_calls' {
  return reason === 'length' || reason === 'tool_calls' ? reason : 'stop';
}

interface WireToken {
  token: string;
  logprob: number;
  bytes: number[];
}

export interface WireLogprobs {
  content: (WireToken & { top_logprobs: WireToken[] })[];
  refusal: null;
}

/** JSON has no infinity; a masked token's log-probability goes out as OpenAI's floor. */
const floorLogprob = -9999;

export function finiteLogprob(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : floorLogprob;
}

function wireToken(entry: Omit<TokenLogprob, 'top'>): WireToken {
  return { token: entry.text, logprob: finiteLogprob(entry.logprob), bytes: [...entry.bytes] };
}

export function chatLogprobs(entries: readonly TokenLogprob[]): WireLogprobs {
  return {
    content: entries.map((entry) => ({ ...wireToken(entry), top_logprobs: entry.top.map(wireToken) })),
    refusal: null,
  };
}
