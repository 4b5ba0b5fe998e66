// SPDX-License-Identifier: MIT
// The public face of the engine; the only engine module that server/ imports.

export { blocksFor, planCache } from './cache/layout.ts';
export { createEngine } from './create.ts';
export { EngineError } from './errors.ts';
export { letOthersRun } from './event-loop.ts';
export { GREEDY, greedyRequest } from './greedy-request.ts';
export { buildInfo, inspectCheckpoint } from './inspect.ts';
export { elements, JsonSyntaxError, member, parseMember, sourceText } from './text/json-text.ts';
export { toolFunctions } from './text/prompt.ts';
export type { GrammarSpec } from './text/grammar/specs.ts';
export type { JsonNode } from './text/json-text.ts';
export type { EngineErrorCode, EngineErrorDetails } from './errors.ts';
export type { BuildInfo, CheckpointReport } from './inspect.ts';
export type {
  ChatInput,
  ChatMessage,
  ContentPart,
  Engine,
  EngineLogger,
  EngineOptions,
  EngineStats,
  FimInput,
  FinishReason,
  GenerationEvent,
  GenerationRequest,
  JsonText,
  LoadProgress,
  ModelInfo,
  PromptInput,
  SamplingOptions,
  StopOptions,
  Timing,
  TokenLogprob,
  ToolCall,
  ToolDefinition,
  Usage,
} from './types.ts';
