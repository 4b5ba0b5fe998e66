// SPDX-License-Identifier: MIT
// The OpenAPI document: bodies are the schemas that requests are checked with.

import { z } from 'zod';
import { ChatCompletionBody } from './schemas/chat-completions.ts';
import { CompletionBody } from './schemas/completions.ts';
import { CountTokensBody, MessagesBody } from './schemas/messages.ts';
import { ResponsesBody } from './schemas/responses.ts';
import { DetokenizeBody, TokenizeChatBody, TokenizeTextBody } from './schemas/tokenize.ts';
import { version } from './version.ts';

const bodies = {
  ChatCompletionRequest: ChatCompletionBody,
  CompletionRequest: CompletionBody,
  ResponsesRequest: ResponsesBody,
  MessagesRequest: MessagesBody,
  CountTokensRequest: CountTokensBody,
  TokenizeRequest: z.union([TokenizeTextBody, TokenizeChatBody]),
  DetokenizeRequest: DetokenizeBody,
} satisfies Record<string, z.ZodType>;

interface Operation {
  method: 'get' | 'post';
  path: string;
  tag: 'Completions' | 'Prompts' | 'Server';
  summary: string;
  /** What the answer is. */
  answer: string;
  body?: keyof typeof bodies;
  example?: object;
  /** With stream: true the answer is an event stream. */
  streams?: boolean;
  /** Media type of the answer; JSON when absent. */
  type?: string;
}

const user = [{ role: 'user', content: 'What is 12 + 30?' }];

export const operations: readonly Operation[] = [
  {
    ...{ method: 'post', path: '/v1/chat/completions', tag: 'Completions', streams: true },
    ...{ summary: 'Answer a conversation (OpenAI)', answer: 'chat.completion, or chat.completion.chunk events' },
    ...{ body: 'ChatCompletionRequest', example: { messages: user } },
  },
  {
    ...{ method: 'post', path: '/v1/completions', tag: 'Completions', streams: true },
    ...{ summary: 'Continue text, or fill in the middle (OpenAI)', answer: 'text_completion, whole or in pieces' },
    ...{ body: 'CompletionRequest', example: { prompt: 'Once upon a time', max_tokens: 20 } },
  },
  {
    ...{ method: 'post', path: '/v1/responses', tag: 'Completions', streams: true },
    ...{ summary: 'Answer a conversation (OpenAI Responses); nothing is stored', answer: 'response, or response.* events' },
    ...{ body: 'ResponsesRequest', example: { input: 'What is 12 + 30?' } },
  },
  {
    ...{ method: 'post', path: '/v1/messages', tag: 'Completions', streams: true },
    ...{ summary: 'Answer a conversation (Anthropic)', answer: 'message, or message events' },
    ...{ body: 'MessagesRequest', example: { model: 'claude', max_tokens: 256, messages: user } },
  },
  {
    ...{ method: 'post', path: '/v1/messages/count_tokens', tag: 'Prompts', summary: 'Count the tokens of a conversation' },
    ...{ answer: 'input_tokens', body: 'CountTokensRequest', example: { model: 'claude', messages: user } },
  },
  {
    ...{ method: 'post', path: '/v1/chat/completions/render', tag: 'Prompts', summary: 'The prompt of a chat completion' },
    ...{ answer: 'token_ids and text', body: 'ChatCompletionRequest', example: { messages: user } },
  },
  {
    ...{ method: 'post', path: '/v1/completions/render', tag: 'Prompts', summary: 'The prompts of a completion' },
    ...{ answer: 'token_ids and text of each', body: 'CompletionRequest', example: { prompt: 'Once' } },
  },
  {
    ...{ method: 'post', path: '/tokenize', tag: 'Prompts', summary: 'Token ids of a text or a conversation' },
    ...{ answer: 'tokens, count and max_model_len', body: 'TokenizeRequest', example: { prompt: 'Once' } },
  },
  {
    ...{ method: 'post', path: '/detokenize', tag: 'Prompts', summary: 'Text of token ids' },
    ...{ answer: 'prompt', body: 'DetokenizeRequest', example: { tokens: [20, 21] } },
  },
  { method: 'get', path: '/v1/models', tag: 'Server', summary: 'Models that are served', answer: 'list of models' },
  { method: 'get', path: '/v1/models/{id}', tag: 'Server', summary: 'One model', answer: 'model' },
  { method: 'get', path: '/health', tag: 'Server', summary: 'Whether requests are served', answer: 'status; 503 when not' },
  { method: 'get', path: '/readyz', tag: 'Server', summary: 'As /health, with the progress of loading', answer: 'status' },
  { method: 'get', path: '/livez', tag: 'Server', summary: 'Whether a restart would not help', answer: 'status' },
  {
    method: 'get',
    path: '/startupz',
    tag: 'Server',
    summary: 'Whether the model is loaded',
    answer: 'status; 503 while loading',
  },
  { method: 'get', path: '/metrics', tag: 'Server', summary: 'Prometheus metrics', answer: 'metrics', type: 'text/plain' },
  { method: 'get', path: '/version', tag: 'Server', summary: 'Version of the server', answer: 'version' },
  { method: 'get', path: '/server_info', tag: 'Server', summary: 'Model, options and uptime', answer: 'version, model, options' },
];

const errorSchema = {
  type: 'object',
  required: ['error'],
  properties: {
    error: {
      type: 'object',
      required: ['message', 'type', 'param', 'code'],
      properties: {
        message: { type: 'string' },
        type: { type: 'string' },
        param: { type: ['string', 'null'], description: 'Path of the field at fault, such as messages[2].content' },
        code: { type: ['string', 'null'] },
      },
    },
  },
};

/** OpenAPI 3.1 document of this server. */
export function openApiDocument(): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of operations) {
    paths[operation.path] = { ...paths[operation.path], [operation.method]: describe(operation) };
  }
  const schemas = Object.fromEntries(Object.entries(bodies).map(([name, body]) => [name, bodySchema(body)]));
  return {
    openapi: '3.1.0',
    info: { title: 'twelvex', version, license: { name: 'MIT', identifier: 'MIT' } },
    servers: [{ url: '/' }],
    security: [{}, { bearer: [] }, { apiKey: [] }],
    paths,
    components: {
      schemas: { ...schemas, Error: errorSchema },
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer' },
        apiKey: { type: 'apiKey', in: 'header', name: 'x-api-key' },
      },
    },
  };
}

/** Refinements that JSON Schema cannot say are left out. */
function bodySchema(body: z.ZodType): object {
  const { $schema: _, ...schema } = z.toJSONSchema(body, { io: 'input', unrepresentable: 'any' });
  return schema;
}

function describe({ path, tag, summary, answer, body, example, streams, type }: Operation): Record<string, unknown> {
  const parameters = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    ...{ name, in: 'path', required: true, schema: { type: 'string' } },
  }));
  const content: Record<string, object> = { [type ?? 'application/json']: {} };
  if (streams === true) content['text/event-stream'] = {};
  const schema = { $ref: `#/components/schemas/${body}` };
  const error = { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } };
  return {
    tags: [tag],
    summary,
    ...(parameters.length > 0 && { parameters }),
    ...(body !== undefined && { requestBody: { required: true, content: { 'application/json': { schema, example } } } }),
    responses: { 200: { description: answer, content }, default: { description: 'what went wrong', content: error } },
  };
}
