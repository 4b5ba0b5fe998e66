// SPDX-License-Identifier: MIT
// Bodies of a given size in the shapes that clients send: one long text, an agent's conversation, every protocol.

export interface BigPrompt {
  name: string;
  path: string;
  body: object;
}

const english = 'The quick brown fox jumps over the lazy dog. ';
const chinese = '敏捷的棕色狐狸跳过了懒狗，然后回家睡觉。🙂\n';

const repeated = (text: string, bytes: number): string => text.repeat(Math.ceil(bytes / Buffer.byteLength(text)));

/** A tool as agents describe theirs. */
function tool(index: number): { name: string; description: string; parameters: object } {
  const description = 'Reads a file of the workspace and returns the lines asked for. '.repeat(8);
  const properties = { path: { type: 'string', description }, offset: { type: 'integer' }, limit: { type: 'integer' } };
  return { name: `read_${index}`, description, parameters: { type: 'object', properties, required: ['path'] } };
}

const tools = Array.from({ length: 40 }, (_, index) => ({ type: 'function', function: tool(index) }));

interface Message {
  role: string;
  content: string;
  reasoning_content?: string;
  tool_calls?: { id: string; type: string; function: object }[];
  tool_call_id?: string;
}

/** Calls of tools and their results of 4 KB each. */
function conversation(bytes: number): Message[] {
  const turns = Math.ceil(bytes / 4600);
  const turn = (index: number): Message[] => [
    {
      role: 'assistant',
      content: 'I will look at the next file.',
      reasoning_content: 'The user wants to know. '.repeat(10),
      tool_calls: [{ id: `call_${index}`, type: 'function', function: { name: 'read_1', arguments: '{"path":"src/a.ts"}' } }],
    },
    {
      role: 'tool',
      tool_call_id: `call_${index}`,
      content: `const x = ${index};\n`.padEnd(4000, `  return f("a\\n", x + ${index});\n`),
    },
  ];
  return [{ role: 'user', content: 'Explain this code.' }, ...Array.from({ length: turns }, (_, index) => turn(index)).flat()];
}

/** The same in Anthropic's shape, where arguments are objects. */
function anthropicConversation(bytes: number): object {
  const messages = conversation(bytes).map((message) => {
    const { role, content, tool_calls: calls, tool_call_id: id } = message;
    if (role === 'tool') return { role: 'user', content: [{ type: 'tool_result', tool_use_id: id, content }] };
    if (calls === undefined) return { role, content };
    return {
      role,
      content: [
        { type: 'text', text: content },
        { type: 'tool_use', id: calls[0]?.id, name: 'read_1', input: { path: 'src/a.ts' } },
      ],
    };
  });
  const anthropicTools = tools.map(({ function: { parameters, ...rest } }) => ({ ...rest, input_schema: parameters }));
  return { model: 'demo', max_tokens: 1, messages, tools: anthropicTools };
}

/** @param bytes size of each body, about */
export function bigPrompts(bytes: number): BigPrompt[] {
  const user = (content: string): object[] => [{ role: 'user', content }];
  const tokens = Array.from({ length: Math.ceil(bytes / 5) }, (_, index) => 1000 + ((index * 7919) % 3000));
  return [
    { name: 'chat, one English text', path: '/v1/chat/completions', body: { messages: user(repeated(english, bytes)) } },
    { name: 'chat, one Chinese text', path: '/v1/chat/completions', body: { messages: user(repeated(chinese, bytes)) } },
    { name: 'chat, an agent with 40 tools', path: '/v1/chat/completions', body: { messages: conversation(bytes), tools } },
    { name: 'completions', path: '/v1/completions', body: { prompt: repeated(english, bytes) } },
    { name: 'completions, ids and their text', path: '/v1/completions', body: { prompt: tokens, echo: true } },
    { name: 'detokenize', path: '/detokenize', body: { tokens } },
    { name: 'responses', path: '/v1/responses', body: { input: repeated(english, bytes) } },
    { name: 'messages, an agent with 40 tools', path: '/v1/messages', body: anthropicConversation(bytes) },
    { name: 'messages', path: '/v1/messages', body: { model: 'demo', max_tokens: 1, messages: user(repeated(english, bytes)) } },
  ];
}
