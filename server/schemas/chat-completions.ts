// SPDX-License-Identifier: MIT
// Body of POST /v1/chat/completions. Unknown fields are ignored; fields of DeepSeek, vLLM and SGLang clients are known.

import { z } from 'zod';
import { boolean, generationFields, integerIn, limits, optional, string, typedOrOther, unsupportedFields } from './common.ts';

const textPart = z.object({ type: z.literal('text'), text: string() });
/** Parts of other kinds are allowed in tool results, where their kind is named to the model; refused elsewhere. */
const parts = z
  .array(typedOrOther(textPart), { error: 'expected an array of parts' })
  .max(limits.parts, `at most ${limits.parts}`);
const content = z.union([string(), parts]);

const toolCall = z.object({
  id: optional(string()),
  type: optional(string()),
  function: z.object({
    name: string(),
    arguments: z.union([string(), z.record(z.string(), z.unknown())], { error: 'expected JSON text' }),
  }),
});

const instruction = { content, name: optional(string()) };

const message = z.discriminatedUnion(
  'role',
  [
    z.object({ role: z.literal('system'), ...instruction }),
    z.object({ role: z.literal('developer'), ...instruction }),
    z.object({ role: z.literal('user'), ...instruction }),
    z.object({ role: z.literal('tool'), content, tool_call_id: optional(string()) }),
    z.object({
      role: z.literal('assistant'),
      content: optional(content),
      reasoning_content: optional(string()),
      reasoning: optional(string()),
      tool_calls: optional(z.array(toolCall, { error: 'expected an array' }).max(limits.parts, `at most ${limits.parts}`)),
      prefix: optional(boolean()),
    }),
  ],
  { error: 'expected a message with a role of system, developer, user, assistant or tool' },
);

const tool = z.object({
  type: string(),
  function: optional(
    z.object({
      name: string().min(1, 'must not be empty'),
      parameters: optional(z.looseObject({})),
      strict: optional(boolean()),
    }),
  ),
});

const toolChoice = z.union([
  z.enum(['none', 'auto', 'required'], { error: 'expected none, auto, required or a function' }),
  z.object({ type: string(), function: optional(z.object({ name: string() })) }),
]);

const effortWords = ['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max', 'ultra'] as const;
export const effort = z.enum(effortWords, { error: `expected one of ${effortWords.join(', ')}` });
export type EffortWord = (typeof effortWords)[number];

const messageList = z
  .array(message, { error: 'expected an array of messages' })
  .min(1, 'must not be empty')
  .max(limits.messages, `at most ${limits.messages} messages`);

export const ChatCompletionBody = z.object({
  ...generationFields,
  messages: messageList,
  max_tokens: optional(integerIn(1, 2 ** 31 - 1)),
  max_completion_tokens: optional(integerIn(1, 2 ** 31 - 1)),
  logprobs: optional(boolean()),
  top_logprobs: optional(integerIn(0, 20)),
  tools: optional(z.array(tool, { error: 'expected an array of tools' }).max(limits.tools, `at most ${limits.tools} tools`)),
  tool_choice: optional(toolChoice),
  parallel_tool_calls: optional(boolean()),
  thinking: optional(
    z.object({ type: z.enum(['enabled', 'disabled', 'adaptive'], { error: 'expected enabled, disabled or adaptive' }) }),
  ),
  reasoning_effort: optional(effort),
  reasoning: optional(z.object({ effort: optional(effort), enabled: optional(boolean()) })),
  include_reasoning: optional(boolean()),
  separate_reasoning: optional(boolean()),
  chat_template_kwargs: optional(
    z.object({
      thinking: optional(boolean()),
      enable_thinking: optional(boolean()),
      reasoning_effort: optional(effort),
      drop_thinking: optional(boolean()),
    }),
  ),
  continue_final_message: optional(boolean()),
  add_generation_prompt: optional(boolean()),
});

export const unsupportedChatFields = {
  ...unsupportedFields,
  echo: { message: 'echo is not supported in chats; use /v1/completions', harmless: (value: unknown) => value === false },
};

export type ChatCompletionBody = z.infer<typeof ChatCompletionBody>;
