// SPDX-License-Identifier: MIT
// The types that cross the engine's public face. Protocol-free: no OpenAI names, no HTTP.

import type { EngineError } from './errors.ts';
import type { GrammarSpec } from './text/grammar/specs.ts';
import type { JsonText } from './text/json-text.ts';

export type { JsonText };

// ---------------------------------------------------------------- input

export interface ToolDefinition {
  name: string;
  /** The `function` object as the client sent it; key order and number spelling are kept (see JsonText). */
  schema: JsonText;
  strict?: boolean;
}

export interface ToolCall {
  id?: string;
  name: string;
  /** The arguments exactly as text. */
  arguments: string;
}

export type ContentPart = { type: 'text'; text: string } | { type: 'other'; kind: string };

export type ChatMessage =
  | { role: 'system' | 'developer'; content: string; tools?: JsonText[]; responseFormat?: JsonText }
  | { role: 'user'; content: string }
  | { role: 'latest_reminder'; content: string }
  | { role: 'tool'; content: string | ContentPart[]; toolCallId?: string }
  | {
      role: 'assistant';
      content: string;
      reasoning?: string;
      toolCalls?: ToolCall[];
      /** Continue this message instead of answering it (no end-of-sentence token behind it). */
      prefix?: boolean;
    };

export interface ChatInput {
  kind: 'chat';
  messages: ChatMessage[];
  /** JSON text of each tool's `function` object, attached to the first system turn. */
  tools?: JsonText[];
  responseFormat?: JsonText;
  thinking: boolean;
  /** Effort word as given; the encoder revision decides what it renders to. Absent: no prefix. */
  effort?: 'low' | 'high' | 'max';
  /** Drop reasoning of earlier turns when no tools are present (default true). */
  dropThinking?: boolean;
  toolChoice?: 'auto' | 'none' | 'required' | { name: string };
  parallelToolCalls?: boolean;
}

/** Fill in the middle: what comes between two texts. */
export interface FimInput {
  kind: 'fim';
  prefix: string;
  suffix: string;
}

export type PromptInput = ChatInput | FimInput | { kind: 'text'; text: string } | { kind: 'tokens'; tokens: Int32Array };

export interface SamplingOptions {
  temperature: number; // 0 = greedy
  topP: number; // 0 to 1; 0 = the best token alone
  topK: number; // 0 = off
  minP: number; // 0 to 1
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  /** Absent: a random one is drawn. Choice i of a request uses seed + i. */
  seed?: bigint;
  logitBias?: ReadonlyMap<number, number>;
  /** Only these ids may be sampled. */
  allowedTokens?: readonly number[];
}

export interface StopOptions {
  /** Matched on answer text only, never on reasoning or tool arguments. */
  strings: string[];
  tokens: number[];
  includeInOutput: boolean;
  ignoreEos: boolean;
  minTokens: number;
}

export interface GenerationRequest {
  id: string;
  input: PromptInput;
  sampling: SamplingOptions;
  stop: StopOptions;
  /** Absent: what is left of the context. Counts reasoning. 0 is allowed (prompt only). */
  maxTokens?: number;
  /** Choices, each its own stream of events. */
  n: number;
  /** -1: none; 0..20 alternatives per sampled token. */
  logprobs: number;
  /** -1: none; log-probabilities of the prompt's own tokens. */
  promptLogprobs: number;
  /** Lower runs first among waiting requests. */
  priority?: number;
  /** Separates prefix-cache entries. */
  cacheSalt?: string;
  /**
   * What the completion has to look like, from behind the reasoning on; `param` names the field it came from in errors.
   * Forced and strict tools bring a grammar of their own: a forced call leaves no answer, other calls may stand instead of
   * it. The end of the grammar ends the completion, so that ignoreEos and minTokens do not count; not together with
   * `allowedTokens`.
   */
  grammar?: { spec: GrammarSpec; param: string };
  /** Emit 'progress' events while the prompt is computed. */
  progress?: boolean;
  signal?: AbortSignal;
}

// ---------------------------------------------------------------- output

export interface TokenLogprob {
  token: number;
  /** True bytes of the token, also when it is part of a code point. */
  bytes: Uint8Array;
  /** Text form: the bytes decoded, U+FFFD where they are not text on their own. */
  text: string;
  logprob: number;
  top: { token: number; bytes: Uint8Array; text: string; logprob: number }[];
}

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'aborted' | 'error';

export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  reasoningTokens: number;
  draftedTokens: number;
  acceptedTokens: number;
}

export interface Timing {
  /** Milliseconds from submission: admitted to a first step, first token, end. */
  queuedMs: number;
  firstTokenMs: number;
  totalMs: number;
}

/** Events of one choice. Order: prompt, progress*, (tokens | reasoning | answer | tool…)*, end. Exactly one `end`. */
export type GenerationEvent =
  /** `logprobs`: one entry a prompt token; the first, which nothing predicts, has NaN. Such a prompt has no progress events. */
  | { kind: 'prompt'; choice: number; tokens: Int32Array; cachedTokens: number; logprobs?: TokenLogprob[] }
  | { kind: 'progress'; choice: number; computedTokens: number; cachedTokens: number; promptTokens: number }
  /** Sampled ids of one step, before the text they lead to; control tokens included. */
  | { kind: 'tokens'; choice: number; ids: number[]; logprobs?: TokenLogprob[] }
  | { kind: 'reasoning'; choice: number; text: string }
  | { kind: 'answer'; choice: number; text: string }
  | { kind: 'tool-call'; choice: number; index: number; id: string; name: string }
  | { kind: 'tool-arguments'; choice: number; index: number; text: string }
  | { kind: 'tool-end'; choice: number; index: number }
  | {
      kind: 'end';
      choice: number;
      reason: FinishReason;
      /** The stop string or token id that ended it, if one did. */
      stop?: string | number;
      /** The model stopped without closing its reasoning: what came as 'reasoning' was meant as the answer. */
      reasoningIsAnswer?: boolean;
      usage: Usage;
      timing: Timing;
      error?: EngineError;
    };

// ---------------------------------------------------------------- the engine

export interface ModelInfo {
  id: string;
  path: string;
  /** Unix seconds, constant while the process lives. */
  created: number;
  vocabSize: number;
  maxModelLen: number;
  bosToken: number;
  eosToken: number;
  encoderRevision: 'preview' | '0731';
  layers: { swa: number; csa: number; hca: number };
  mtp: number;
  device: 'cpu' | 'cuda';
  ranks: number;
  numerics: 'exact' | 'served';
  rowFormat: 'f32' | 'bf16' | 'fp8';
  /** Sampling defaults of generation_config.json. */
  generationDefaults: { temperature: number; topP: number };
  /** Changes with weights or engine build; the wire's system_fingerprint. */
  fingerprint: string;
  cache: { blockTokens: number; contextBlocks: number; windowBlocks: number; slots: number };
}

/** Monotonic counters and current gauges; cheap to read at any time. */
export interface EngineStats {
  running: number;
  waiting: number;
  /** Those of the waiting that are still being tokenised or have their grammar compiled. */
  preparing: number;
  /** 0..1, the fuller of the two block pools (blocks held by live sequences). */
  kvUsage: number;
  promptTokens: number;
  cachedPromptTokens: number;
  generatedTokens: number;
  preemptions: number;
  prefixQueries: number; // tokens
  prefixHits: number; // tokens
  drafts: number;
  draftTokens: number;
  acceptedTokens: number;
  acceptedPerPosition: number[];
  steps: number;
  /** Steps by their prompt and generated tokens: counts[i] have at most bounds[i], the last ones more. */
  stepTokens: { bounds: readonly number[]; counts: readonly number[]; sum: number };
  gathersOverlapped: number;
  gathersInline: number;
  /** Sums over ranks that ran beside the product before them, and behind it; 0 with one rank. */
  reductionsOverlapped: number;
  reductionsInline: number;
  finished: Record<FinishReason, number>;
  /** Blocks and slots not held by anybody (cached ones included); equal to the totals when idle. */
  freeContextBlocks: number;
  freeWindowBlocks: number;
  freeSlots: number;
}

export interface LoadProgress {
  stage: 'tokenizer' | 'config' | 'weights' | 'cache' | 'warmup' | 'ready';
  /** 0..1 within the whole load. */
  fraction: number;
  detail: string;
}

export interface Engine {
  readonly info: ModelInfo;
  /**
   * Events of all choices of a request, merged, in order per choice. Ends after one `end` per choice.
   * The first batch is empty and says that the request is accepted (queued): time to send response headers. A refused
   * request rejects the first `next()` instead.
   * Aborting `signal`, or leaving the loop early, ends every choice with reason 'aborted' at the next step border.
   * A choice whose reader stalls is not computed further until it reads on; nothing is dropped.
   * @throws EngineError in place of the first batch when the request is refused.
   */
  generate(request: GenerationRequest): AsyncIterable<GenerationEvent[]>;
  /** Token ids of a prompt as `generate` would compute it. */
  encode(input: PromptInput): Promise<Int32Array>;
  /** Text of ids; control tokens as their literals. */
  decode(tokens: Int32Array): Promise<string>;
  /** Bytes and display text of one token. */
  tokenBytes(token: number): Uint8Array;
  /** The rendered prompt as text, for inspection; of ids the text they stand for. */
  render(input: PromptInput): Promise<string>;
  stats(): EngineStats;
  /** False once a native fault made the engine unusable; `reason` says why. */
  health(): { ok: boolean; reason?: string };
  /** Stop admitting (CLOSED for new requests), wait for running ones up to `timeoutMs`, abort the rest. */
  drain(timeoutMs: number): Promise<void>;
  close(): Promise<void>;
}

export interface EngineOptions {
  /** Directory of the checkpoint. */
  modelPath: string;
  /** Directory with a tokenizer.json, or such a file; absent: the checkpoint's own. */
  tokenizerPath?: string;
  modelId: string;
  device: 'cpu' | 'cuda';
  devices: number[];
  tp: number;
  threads: number; // 0: all cores that the process may use
  numerics: 'exact' | 'served';
  kvCache: 'f32' | 'bf16' | 'fp8';
  mtp: number; // -1: 2 if the checkpoint has an MTP block, else 0
  loadFormat: 'auto' | 'dummy';
  dummySeed: number;
  layers: number; // 0: all; else cut to the first n (dummy loads, benchmarks)
  maxModelLen: number; // 0: from the tokenizer/model configuration, bounded by memory
  maxSequences: number;
  stepTokens: number; // token budget of a step
  kvMemoryBytes: number; // 0: default for the device
  maxItlMs: number;
  maxQueuedRequests: number;
  maxQueuedTokens: number;
  prefixCache: boolean;
  encoder: 'auto' | 'preview' | '0731';
}

export interface EngineLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  debug(fields: object, message: string): void;
}
