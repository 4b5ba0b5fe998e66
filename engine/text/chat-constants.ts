// SPDX-License-Identifier: MIT
// Literal strings of the DeepSeek-V4 prompt format. They are training-time data: byte for byte, never reworded.
// `｜` is U+FF5C and `▁` is U+2581. Lengths and SHA-256 are checked by test/unit/engine/text/chat-constants.test.ts.

export const BOS = '<｜begin▁of▁sentence｜>';
export const EOS = '<｜end▁of▁sentence｜>';
export const PAD = '<｜▁pad▁｜>';
export const USER = '<｜User｜>';
export const ASSISTANT = '<｜Assistant｜>';
export const THINK_OPEN = '<think>';
export const THINK_CLOSE = '</think>';
export const DSML = '｜DSML｜';
export const LATEST_REMINDER = '<｜latest_reminder｜>';
export const FIM_HOLE = '<｜fim▁hole｜>';
export const FIM_BEGIN = '<｜fim▁begin｜>';
export const FIM_END = '<｜fim▁end｜>';

/** Quick-instruction tasks and the token each ends the prompt with. */
export const TASK_TOKENS = {
  action: '<｜action｜>',
  query: '<｜query｜>',
  authority: '<｜authority｜>',
  domain: '<｜domain｜>',
  title: '<｜title｜>',
  read_url: '<｜read_url｜>',
} as const;
export type Task = keyof typeof TASK_TOKENS;

/** Every control literal that trusted template text may contain. */
export const CONTROL_LITERALS: readonly string[] = [
  BOS,
  EOS,
  PAD,
  USER,
  ASSISTANT,
  THINK_OPEN,
  THINK_CLOSE,
  DSML,
  LATEST_REMINDER,
  FIM_HOLE,
  FIM_BEGIN,
  FIM_END,
  ...Object.values(TASK_TOKENS),
];

const ABSOLUTE_MAXIMUM =
  'Reasoning Effort: Absolute maximum with no shortcuts permitted.\n' +
  'You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the ' +
  'root cause, rigorously stress-testing your logic against all potential paths, edge cases, and ' +
  'adversarial scenarios.\n' +
  'Explicitly write out your entire deliberation process, documenting every intermediate step, ' +
  'considered alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n';

const BEYOND_MAXIMUM =
  'Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n' +
  'You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively ' +
  'decompose the problem into its most fundamental components, trace every causal chain to its root, ' +
  'and resolve the underlying cause rather than any surface symptom.\n' +
  'Do not stop reasoning until you have independently verified the solution from multiple angles and ' +
  'are certain that no assumption remains unchecked and no error remains undiscovered.\n\n';

export type EncoderRevision = 'preview' | '0731';

/** Text before the first message in thinking mode, by encoder revision and effort word. Other words are errors. */
export const EFFORT_PREFIX: Record<EncoderRevision, Readonly<Record<string, string>>> = {
  preview: { high: '', max: ABSOLUTE_MAXIMUM },
  '0731': { low: '', high: ABSOLUTE_MAXIMUM, max: BEYOND_MAXIMUM },
};

export const TOOLS_SECTION = {
  prefix:
    "## Tools\n\nYou have access to a set of tools to help answer the user's question. You can invoke tools by " +
    'writing a "<｜DSML｜tool_calls>" block like the following:\n\n<｜DSML｜tool_calls>\n' +
    '<｜DSML｜invoke name="$TOOL_NAME">\n' +
    '<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>\n...\n' +
    '</｜DSML｜invoke>\n<｜DSML｜invoke name="$TOOL_NAME2">\n...\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>\n\n' +
    'String parameters should be specified as is and set `string="true"`. For all other types (numbers, ' +
    'booleans, arrays, objects), pass the value in JSON format and set `string="false"`.\n\n' +
    'If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside ' +
    '<think>...</think> BEFORE any tool calls or final response.\n\n' +
    'Otherwise, output directly after </think> with tool calls or final response.\n\n### Available Tool Schemas\n\n',
  separator: '\n',
  suffix: '\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n',
};

/** Followed directly by the JSON text of the response format. */
export const RESPONSE_FORMAT_PREFIX = '## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n';

/** DSML markup of tool calls in an assistant turn. */
export const TOOL_CALL = {
  joinBefore: '\n\n',
  blockOpen: '<｜DSML｜tool_calls>\n',
  invokeSeparator: '\n',
  blockClose: '\n</｜DSML｜tool_calls>',
  invokeOpenPrefix: '<｜DSML｜invoke name="',
  invokeOpenSuffix: '">\n',
  parameterSeparator: '\n',
  invokeClose: '\n</｜DSML｜invoke>',
  parameterOpenPrefix: '<｜DSML｜parameter name="',
  parameterMid: '" string="',
  parameterOpenSuffix: '">',
  parameterClose: '</｜DSML｜parameter>',
  fallbackParameterName: 'arguments',
};

export const TOOL_RESULT = {
  open: '<tool_result>',
  close: '</tool_result>',
  blockSeparator: '\n\n',
  unsupportedPrefix: '[Unsupported ',
  unsupportedSuffix: ']',
};
