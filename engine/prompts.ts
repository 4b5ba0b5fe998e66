// SPDX-License-Identifier: MIT

import { EngineError } from './errors.ts';
import { inTurns, letOthersRun } from './event-loop.ts';
import type { ParserOptions } from './text/content-parser.ts';
import { FIM_BEGIN, FIM_END, FIM_HOLE } from './text/chat-constants.ts';
import type { EncoderRevision } from './text/chat-constants.ts';
import type { ToolGrammar } from './text/grammar/tool-calls.ts';
import { member, parseLossless } from './text/json-text.ts';
import { promptText, renderFim, renderStepwise } from './text/prompt.ts';
import type { Segment } from './text/segment.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import { TurnReplay } from './text/turn-replay.ts';
import type { ChatInput, ChatMessage, JsonText, PromptInput } from './types.ts';

/** A prompt ready to be scheduled, with what is needed to read the completion behind it. */
export interface PreparedPrompt {
  tokens: Int32Array;
  parser: ParserOptions;
  /** Markup of a forced tool call; part of the prompt, or to come behind the reasoning when `forcedTokens` is there. */
  forced?: readonly Segment[];
  forcedTokens?: Int32Array;
  /** Grammar of forced or strict tool calls. */
  toolGrammar?: ToolGrammar;
  /** Where a completed turn with tool calls is kept for the next request of its conversation. */
  replay?: TurnReplay;
}

/** Renders and tokenises prompts. */
export class Prompts {
  readonly #tokenizer: Tokenizer;
  readonly #revision: EncoderRevision;
  readonly #vocabSize: number;
  readonly #replay = new TurnReplay();

  constructor(tokenizer: Tokenizer, revision: EncoderRevision, vocabSize: number) {
    this.#tokenizer = tokenizer;
    this.#revision = revision;
    this.#vocabSize = vocabSize;
  }

  /** @throws EngineError INVALID_REQUEST naming the field at fault; what `signal` was aborted with. */
  async prepare(input: PromptInput, signal?: AbortSignal): Promise<PreparedPrompt> {
    if (input.kind === 'chat') return this.#prepareChat(input, signal);
    const parser: ParserOptions = { start: 'plain', toolCalls: false };
    if (input.kind === 'fim') {
      this.#refuseFimUnlessKnown();
      return { tokens: await this.#tokenizer.encodeSegments(renderFim(input), signal), parser };
    }
    if (input.kind === 'text') {
      return { tokens: await this.#tokenizer.encodeText(input.text, { control: true }, signal), parser };
    }
    const wrong = input.tokens.find((token) => token < 0 || token >= this.#vocabSize);
    if (wrong !== undefined) {
      throw new EngineError('INVALID_REQUEST', `token ${wrong} is not in the vocabulary of ${this.#vocabSize}`, {
        param: 'prompt',
      });
    }
    return { tokens: input.tokens, parser };
  }

  /** The prompt as text. */
  async render(input: Exclude<PromptInput, { kind: 'tokens' }>): Promise<string> {
    if (input.kind === 'text') return input.text;
    if (input.kind === 'fim') return promptText(renderFim(input));
    return promptText((await inTurns(renderStepwise(input, this.#revision, this.#replay))).segments);
  }

  #refuseFimUnlessKnown(): void {
    const missing = [FIM_BEGIN, FIM_HOLE, FIM_END].filter((literal) => !this.#tokenizer.hasControl(literal));
    if (missing.length === 0) return;
    const message = `fill-in-the-middle needs control tokens that this tokenizer does not have: ${missing.join(', ')}`;
    throw new EngineError('UNSUPPORTED', message, { param: 'suffix' });
  }

  async #prepareChat(input: ChatInput, signal?: AbortSignal): Promise<PreparedPrompt> {
    const characters = promptCharacters(input);
    await letOthersRun(characters);
    const { segments, start, forced, tools } = await inTurns(renderStepwise(input, this.#revision, this.#replay));
    await letOthersRun(characters);
    const tokens = await this.#tokenizer.encodeSegments(segments, signal);
    const parallel = input.parallelToolCalls ?? true;
    const parser: ParserOptions = { start, toolCalls: tools.length > 0, tools, parallel };
    const toolGrammar = toolGrammarOf(tools, input.toolChoice ?? 'auto', parallel);
    const prompt: PreparedPrompt = { tokens, parser, ...(toolGrammar === undefined ? {} : { toolGrammar }) };
    // A turn that a prefix has begun is not whole without it.
    if (start !== 'continued') prompt.replay = this.#replay;
    if (forced === undefined) return prompt;
    if (start === 'tool-calls') return { ...prompt, forced };
    return { ...prompt, forced, forcedTokens: await this.#tokenizer.encodeSegments(forced, signal) };
  }
}

/** Forced calls are always held to their grammar, others where a tool is strict. */
function toolGrammarOf(
  tools: readonly JsonText[],
  choice: NonNullable<ChatInput['toolChoice']>,
  parallel: boolean,
): ToolGrammar | undefined {
  const rules = tools.map((tool) => ({ tool, strict: isStrict(tool) }));
  if (rules.length === 0 || choice === 'none') return undefined;
  if (choice === 'auto' && !rules.some(({ strict }) => strict)) return undefined;
  const start = choice === 'auto' ? 'text' : choice === 'required' ? 'block' : 'call';
  return { kind: 'tool-calls', tools: rules, start, parallel };
}

function isStrict(tool: JsonText): boolean {
  const strict = member(parseLossless(tool.json), 'strict');
  return strict?.kind === 'boolean' && strict.value;
}

/** Guess of a prompt's tokens from its size, for admission before it is rendered and tokenised. */
export function estimateTokens(input: PromptInput): number {
  return input.kind === 'tokens' ? input.tokens.length : Math.ceil(promptCharacters(input) / CHARACTERS_PER_TOKEN);
}

function promptCharacters(input: Exclude<PromptInput, { kind: 'tokens' }>): number {
  if (input.kind === 'text') return input.text.length;
  if (input.kind === 'fim') return input.prefix.length + input.suffix.length;
  const tools = total(input.tools ?? [], (tool) => tool.json.length);
  return tools + total(input.messages, messageCharacters);
}

/** Of agents' conversations most is results of tools and the calls for them. */
function messageCharacters(message: ChatMessage): number {
  const { content } = message;
  const text =
    typeof content === 'string' ? content.length : total(content, (part) => (part.type === 'text' ? part.text.length : 0));
  if (message.role !== 'assistant') return text;
  return text + (message.reasoning?.length ?? 0) + total(message.toolCalls ?? [], (call) => call.arguments.length);
}

function total<T>(items: readonly T[], size: (item: T) => number): number {
  return items.reduce((sum, item) => sum + size(item), 0);
}

const CHARACTERS_PER_TOKEN = 4;
