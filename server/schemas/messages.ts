// SPDX-License-Identifier: MIT
// Body of POST /v1/messages (Anthropic). Unknown fields and cache_control are ignored.

import { z } from 'zod';
import { boolean, integerIn, limits, numberIn, optional, string, typedOrOther } from './common.ts';

const blocks = <T extends z.ZodType>(block: T): z.ZodArray<T> =>
  z.array(block, { error: 'expected an array of blocks' }).max(limits.parts, `at most ${limits.parts}`);

const textBlock = z.object({ type: z.literal('text'), text: string() });
const resultBlock = z.object({
  type: z.literal('tool_result'),
  tool_use_id: string(),
  content: optional(z.union([string(), blocks(typedOrOther(textBlock))])),
  is_error: optional(boolean()),
});
const useBlock = z.object({
  type: z.literal('tool_use'),
  id: string(),
  name: string(),
  input: z.record(z.string(), z.unknown()),
});
const thinkingBlock = z.object({ type: z.literal('thinking'), thinking: string() });
const userBlock = typedOrOther(textBlock, resultBlock);
const assistantBlock = typedOrOther(textBlock, useBlock, thinkingBlock);

const message = z.discriminatedUnion(
  'role',
  [
    z.object({ role: z.literal('user'), content: z.union([string(), blocks(userBlock)]) }),
    z.object({ role: z.literal('assistant'), content: z.union([string(), blocks(assistantBlock)]) }),
    // Newer clients put reminders between the turns.
    z.object({ role: z.literal('system'), content: z.union([string(), blocks(userBlock)]) }),
  ],
  { error: 'expected a message with a role of user, assistant or system' },
);

const tool = z.object({
  type: optional(string()),
  name: string().min(1, 'must not be empty'),
  description: optional(string()),
  strict: optional(boolean()),
});

const toolChoice = z.object({
  type: z.enum(['auto', 'any', 'tool', 'none'], { error: 'expected auto, any, tool or none' }),
  name: optional(string()),
  disable_parallel_tool_use: optional(boolean()),
});

/** What counting tokens needs. */
export const CountTokensBody = z.object({
  model: string(),
  messages: z
    .array(message, { error: 'expected an array of messages' })
    .min(1, 'must not be empty')
    .max(limits.messages, `at most ${limits.messages} messages`),
  system: optional(z.union([string(), blocks(textBlock)])),
  tools: optional(z.array(tool, { error: 'expected an array of tools' }).max(limits.tools, `at most ${limits.tools} tools`)),
  tool_choice: optional(toolChoice),
  thinking: optional(
    z.object({ type: z.enum(['enabled', 'disabled', 'adaptive'], { error: 'expected enabled, disabled or adaptive' }) }),
  ),
  output_config: optional(
    z.object({
      effort: optional(string()),
      format: optional(z.object({ type: string(), schema: z.unknown().optional() }, { error: 'expected an object' })),
    }),
  ),
});

export const MessagesBody = CountTokensBody.extend({
  max_tokens: integerIn(1, 2 ** 31 - 1),
  stream: optional(boolean()),
  /** Anthropic stops at 1, DeepSeek's endpoint of the same form at 2. */
  temperature: optional(numberIn(0, 2)),
  top_p: optional(numberIn(0, 1)),
  top_k: optional(integerIn(0, 2 ** 31 - 1)),
  stop_sequences: optional(
    z.array(string().min(1, 'must not be empty')).max(limits.stopStrings, `at most ${limits.stopStrings}`),
  ),
});

export type ToolResultBlock = z.infer<typeof resultBlock>;
export type CountTokensBody = z.infer<typeof CountTokensBody>;
export type MessagesBody = z.infer<typeof MessagesBody>;
