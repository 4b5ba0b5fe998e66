// SPDX-License-Identifier: MIT
// The table of server/COMPATIBILITY.md against the tests it names.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { projectRoot, readProject } from '../../helpers/project.ts';

interface Row {
  feature: string;
  level: string;
  shownBy: { file: string; title: string }[];
}

/** Features that have to be served; what the table must not lack. */
const required = [
  // Parameters of /v1/chat/completions
  'messages: system, user, assistant, tool',
  'messages: developer',
  'content as text parts',
  'model',
  'max_tokens, max_completion_tokens',
  'no max_tokens, or more than fits',
  'temperature, top_p',
  'top_k, min_p, repetition_penalty',
  'frequency_penalty, presence_penalty',
  'seed',
  'stop',
  'stop_token_ids, include_stop_str_in_output',
  'ignore_eos, min_tokens',
  'n',
  'logprobs, top_logprobs',
  'echo with logprobs (/v1/completions)',
  'logit_bias',
  'response_format: json_object',
  'response_format: json_schema',
  'response_format: structural_tag',
  'structured_outputs and guided_*: regex, choice, grammar, json',
  'tools',
  'tools[].function.strict',
  'tool_choice: auto, none',
  'tool_choice: required, named',
  'parallel_tool_calls: false',
  'stream, stream_options.include_usage',
  'usage in every stream',
  'stream_options.continuous_usage_stats',
  'reasoning_effort',
  'thinking',
  'chat_template_kwargs: thinking, enable_thinking',
  'include_reasoning, separate_reasoning',
  'prefix, continue_final_message',
  'suffix (/v1/completions)',
  'cache_salt, user_id',
  'priority',
  // Fields of the answer
  'id, object, created, model',
  'system_fingerprint',
  'reasoning_content',
  'content null beside tool calls, no empty tool_calls',
  'refusal, service_tier',
  'finish_reason',
  'stop_reason',
  'usage: cached_tokens, prompt_cache_hit_tokens, reasoning_tokens',
  'timings',
  'logprobs.content[].bytes',
  'logprobs of /v1/responses (include, top_logprobs)',
  'logprobs of reasoning and tool calls',
  'tool_calls: types of arguments',
  'tool_calls: broken markup',
  'tool_calls: sent back by a client',
  'errors',
  // Endpoints and operation
  'POST /v1/chat/completions',
  'POST /v1/completions',
  'GET /v1/models, /v1/models/{id}',
  'POST /v1/responses',
  'POST /v1/messages, /v1/messages/count_tokens',
  'POST /tokenize, /detokenize',
  'POST /v1/chat/completions/render, /v1/completions/render',
  'paths under /, /v1, /beta, /anthropic',
  'GET /health, /livez, /readyz, /startupz',
  'progress of loading',
  'GET /metrics',
  'OpenTelemetry traces',
  'metrics of drafts',
  'GET /version, /server_info',
  'API keys',
  'limits of a key',
  'CORS',
  'TLS',
  'bounded queue',
  'X-Request-Id',
  'cancel when the client leaves',
  'keepalive of streams',
  'progress of the prompt',
  'graceful drain',
  'logs without content',
  'web playground',
  'twelvex chat',
  'twelvex bench',
  'GET /openapi.json, /docs',
  'continuous batching',
];

function tableRows(): Row[] {
  const lines = readProject('server/COMPATIBILITY.md').split('\n');
  const cells = lines.filter((line) => line.startsWith('| ')).map((line) => line.split('|').map((cell) => cell.trim()));
  return cells
    .filter(([, feature, level]) => feature !== '' && /^[MSAR]$/.test(level ?? ''))
    .map(([, feature = '', level = '', , tests = '']) => ({
      feature,
      level,
      shownBy: tests.split('<br>').map((reference) => {
        const [, file = '', title = ''] = /^`([^`]+)`: (.+)$/.exec(reference.trim()) ?? [];
        return { file: `test/${file}.test.ts`, title };
      }),
    }));
}

test('the compatibility table has every feature once, and no other that must or should be served', () => {
  const rows = tableRows();
  const served = rows.filter(({ level }) => 'MS'.includes(level)).map(({ feature }) => feature);
  assert.deepEqual(served.toSorted(), [...required].sort());
  assert.ok(rows.length > served.length);
});

test('every test that the compatibility table names exists', () => {
  const missing = tableRows().flatMap(({ feature, shownBy }) =>
    shownBy
      .filter(({ file, title }) => title === '' || !existsSync(`${projectRoot}/${file}`) || !hasTitle(file, title))
      .map(({ file, title }) => `${feature}: ${file} has no test "${title}"`),
  );
  assert.deepEqual(missing, []);
});

/** Titles stand in quotes; those that are put together, and long ones, are named by a part. */
function hasTitle(file: string, title: string): boolean {
  const source = readProject(file);
  return [`'${title}'`, `"${title}"`, `\`${title} \${`, `} ${title}\``].some((literal) => source.includes(literal));
}
