// SPDX-License-Identifier: MIT
// Engine events → one chat.completion object. Pure.

import type { FinishReason, GenerationEvent, TokenLogprob } from '../../engine/index.ts';
import { reasoningDelta } from './chat-chunks.ts';
import type { ChatChunkOptions } from './chat-chunks.ts';
import { TimingsTotal } from './timings.ts';
import { chatLogprobs, finishReason, UsageTotal } from './wire.ts';
import type { AnswerHeader } from './wire.ts';

interface Choice {
  reasoning: string;
  content: string;
  toolCalls: { id: string; type: 'function'; function: { name: string; arguments: string } }[];
  logprobs: TokenLogprob[];
  reason: FinishReason;
  stop: string | number | null;
}

export class ChatAnswer {
  readonly #header: AnswerHeader;
  readonly #options: ChatChunkOptions;
  readonly #choices: Choice[];
  readonly #usage = new UsageTotal();
  readonly #timings = new TimingsTotal();

  constructor(header: AnswerHeader, options: ChatChunkOptions) {
    this.#header = header;
    this.#options = options;
    this.#choices = Array.from({ length: options.n }, () => ({
      reasoning: '',
      content: '',
      toolCalls: [],
      logprobs: [],
      reason: 'stop',
      stop: null,
    }));
  }

  add(event: GenerationEvent): void {
    const choice = this.#choices[event.choice]!;
    switch (event.kind) {
      case 'prompt':
        if (event.choice === 0) this.#usage.addPrompt(event.tokens.length, event.cachedTokens);
        return;
      case 'tokens':
        if (event.logprobs !== undefined) choice.logprobs.push(...event.logprobs);
        return;
      case 'reasoning':
        choice.reasoning += event.text;
        return;
      case 'answer':
        choice.content += event.text;
        return;
      case 'tool-call':
        choice.toolCalls.push({ id: event.id, type: 'function', function: { name: event.name, arguments: '' } });
        return;
      case 'tool-arguments':
        choice.toolCalls[event.index]!.function.arguments += event.text;
        return;
      case 'end':
        choice.reason = event.reason;
        choice.stop = event.stop ?? null;
        if (event.reasoningIsAnswer === true) Object.assign(choice, { content: choice.reasoning, reasoning: '' });
        this.#usage.addCompletion(event.usage);
        this.#timings.add(event.choice, event.usage, event.timing);
        return;
      case 'progress':
      case 'tool-end':
        return;
    }
  }

  body(): Record<string, unknown> {
    const { id, created, model, fingerprint } = this.#header;
    return {
      id,
      object: 'chat.completion',
      created,
      model,
      choices: this.#choices.map((choice, index) => this.#choice(choice, index)),
      usage: this.#usage.wire(),
      ...(this.#options.timings && { timings: this.#timings.wire() }),
      service_tier: null,
      system_fingerprint: fingerprint,
    };
  }

  #choice(choice: Choice, index: number): Record<string, unknown> {
    const { reasoningField, includeReasoning, logprobs } = this.#options;
    const reasoning = includeReasoning && choice.reasoning !== '' ? choice.reasoning : null;
    // Null says that there is no answer; an answer of no text is text all the same.
    const empty = choice.content === '' && (choice.toolCalls.length > 0 || choice.reason === 'length');
    return {
      index,
      message: {
        role: 'assistant',
        content: empty ? null : choice.content,
        refusal: null,
        ...reasoningDelta(reasoningField, reasoning),
        ...(choice.toolCalls.length > 0 && { tool_calls: choice.toolCalls }),
      },
      logprobs: logprobs ? chatLogprobs(choice.logprobs) : null,
      finish_reason: finishReason(choice.reason),
      stop_reason: choice.stop,
    };
  }
}
