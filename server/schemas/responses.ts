// SPDX-License-Identifier: MIT
// Body of POST /v1/responses (OpenAI Responses). Unknown fields are ignored.

import { z } from 'zod';
import { effort } from './chat-completions.ts';
import { boolean, capped, integerIn, limits, numberIn, optional, string } from './common.ts';

const textPart = z.object({ type: z.enum(['input_text', 'output_text', 'text']), text: string() });
const refusalPart = z.object({ type: z.literal('refusal'), refusal: string() });
/** A part of another kind: allowed in tool results, where its kind is named to the model; refused elsewhere. */
const otherPart = z.object({ type: string() });
const parts = z
  .array(z.union([textPart, refusalPart, otherPart]), { error: 'expected an array of parts' })
  .max(limits.parts, `at most ${limits.parts}`);

const roles = ['user', 'assistant', 'system', 'developer'] as const;

const messageItem = z.object({
  type: z.literal('message'),
  role: z.enum(roles, { error: `expected one of ${roles.join(', ')}` }),
  content: z.union([string(), parts]),
});
const callItem = z.object({
  type: z.literal('function_call'),
  call_id: string(),
  name: string(),
  namespace: optional(string()),
  arguments: string(),
});
const outputItem = z.object({
  type: z.literal('function_call_output'),
  call_id: string(),
  output: z.union([string(), parts]),
});
const reasoningItem = z.object({
  type: z.literal('reasoning'),
  content: optional(z.array(z.object({ type: string(), text: string() })).max(limits.parts, `at most ${limits.parts}`)),
  encrypted_content: optional(string()),
});

/** Types of input items that are read. */
export const itemTypes = ['message', 'function_call', 'function_call_output', 'reasoning'];

/** Short messages come without a type. */
const item = z.preprocess(
  (value) => (typeof value === 'object' && value !== null && !('type' in value) ? { type: 'message', ...value } : value),
  z.discriminatedUnion('type', [messageItem, callItem, outputItem, reasoningItem], {
    error: `expected an item of type ${itemTypes.join(', ')}`,
  }),
);

const toolFields = { type: string(), name: optional(string()), description: optional(string()), strict: optional(boolean()) };

/** A namespace holds functions. Tools of other types are run by their provider; they are skipped here. */
const tool = z.object({ ...toolFields, tools: optional(z.array(z.object(toolFields), { error: 'expected an array of tools' })) });

const toolChoice = z.union([
  z.enum(['none', 'auto', 'required'], { error: 'expected none, auto, required or a function' }),
  z.object({ type: string(), name: optional(string()), namespace: optional(string()) }),
]);

const itemList = z
  .array(item, { error: 'expected an array of items' })
  .min(1, 'must not be empty')
  .max(limits.messages, `at most ${limits.messages} items`);

const metadata = capped(z.record(z.string(), string(), { error: 'expected an object of strings' }), limits.metadata);

export const ResponsesBody = z.object({
  model: optional(string()),
  input: z.union([string(), itemList]),
  instructions: optional(string()),
  tools: optional(z.array(tool, { error: 'expected an array of tools' }).max(limits.tools, `at most ${limits.tools} tools`)),
  tool_choice: optional(toolChoice),
  parallel_tool_calls: optional(boolean()),
  max_output_tokens: optional(integerIn(1, 2 ** 31 - 1)),
  temperature: optional(numberIn(0, 2)),
  top_p: optional(numberIn(0, 1)),
  reasoning: optional(z.object({ effort: optional(effort) }, { error: 'expected an object' })),
  text: optional(
    z.object(
      { format: optional(z.object({ type: string(), schema: z.unknown().optional(), strict: optional(boolean()) })) },
      { error: 'expected an object' },
    ),
  ),
  top_logprobs: optional(integerIn(0, 20)),
  include: optional(z.array(string(), { error: 'expected an array of strings' })),
  stream: optional(boolean()),
  store: optional(boolean()),
  metadata: optional(metadata),
  priority: optional(z.int({ error: 'expected a whole number' })),
  cache_salt: optional(string().max(512, 'longer than 512 characters')),
  user_id: optional(string().max(512, 'longer than 512 characters')),
});

const notStored = 'nothing is stored here; send the whole conversation as input';

/** Fields that are known and not served. A value that asks for nothing is let through. */
export const unsupportedResponsesFields = {
  previous_response_id: { message: `previous_response_id is not supported: ${notStored}` },
  conversation: { message: `conversation is not supported: ${notStored}` },
  background: { message: 'background is not supported; use stream', harmless: (value: unknown) => value === false },
  prompt: { message: 'prompt templates are not supported; use instructions and input' },
  truncation: { message: 'truncation is not supported; shorten the input', harmless: (value: unknown) => value === 'disabled' },
};

export type ResponsesBody = z.infer<typeof ResponsesBody>;
export type InputItem = Exclude<ResponsesBody['input'], string>[number];
