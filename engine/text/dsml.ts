// SPDX-License-Identifier: MIT

import { EngineError } from '../errors.ts';
import type { ToolCall } from '../types.ts';
import { TOOL_CALL } from './chat-constants.ts';
import { JsonSyntaxError, parseLossless, pythonJson, type JsonNode } from './json-text.ts';
import { SegmentBuilder, type Segment } from './segment.ts';

/** One parameter of a call as DSML writes it. */
interface Parameter {
  name: string;
  isString: boolean;
  value: string;
}

/**
 * The tool block of an assistant turn in DSML, the markup that the model was trained to call tools with: an element for each
 * call and one for each argument. Names and values are text.
 * @throws EngineError INVALID_REQUEST when arguments are JSON but no object; `path` names the list of calls.
 */
export function renderToolCalls(calls: readonly ToolCall[], path: string): Segment[] {
  const builder = new SegmentBuilder().markup(TOOL_CALL.joinBefore + TOOL_CALL.blockOpen);
  calls.forEach((call, index) => {
    if (index > 0) builder.markup(TOOL_CALL.invokeSeparator);
    renderInvoke(builder, call.name, parameters(call.arguments, `${path}[${index}].function.arguments`));
  });
  return builder.markup(TOOL_CALL.blockClose).build();
}

function renderInvoke(builder: SegmentBuilder, name: string, list: readonly Parameter[]): void {
  builder.markup(TOOL_CALL.invokeOpenPrefix).text(name).markup(TOOL_CALL.invokeOpenSuffix);
  list.forEach((parameter, index) => {
    if (index > 0) builder.markup(TOOL_CALL.parameterSeparator);
    builder.markup(TOOL_CALL.parameterOpenPrefix).text(parameter.name).markup(TOOL_CALL.parameterMid);
    builder.text(String(parameter.isString)).markup(TOOL_CALL.parameterOpenSuffix);
    builder.text(parameter.value).markup(TOOL_CALL.parameterClose);
  });
  builder.markup(TOOL_CALL.invokeClose);
}

/** Text that is not JSON becomes one string parameter holding it, as in the reference. */
function parameters(text: string, path: string): Parameter[] {
  const root = parseArguments(text);
  if (root === undefined) return [{ name: TOOL_CALL.fallbackParameterName, isString: true, value: text }];
  if (root.kind !== 'object') {
    throw new EngineError('INVALID_REQUEST', `${path} must be a JSON object, got ${root.kind}`, { param: path });
  }
  return [...root.members].map(([name, node]) =>
    node.kind === 'string' ? { name, isString: true, value: node.value } : { name, isString: false, value: pythonJson(node) },
  );
}

function parseArguments(text: string): JsonNode | undefined {
  try {
    return parseLossless(text, { nonFinite: true });
  } catch (error) {
    if (error instanceof JsonSyntaxError) return undefined;
    throw error;
  }
}

/** Text that forces a tool block open, and the call of `name` in it when one is given. */
export function forcedCall(name?: string): Segment[] {
  const builder = new SegmentBuilder().markup(TOOL_CALL.joinBefore + TOOL_CALL.blockOpen);
  if (name !== undefined) builder.markup(TOOL_CALL.invokeOpenPrefix).text(name).markup(TOOL_CALL.invokeOpenSuffix);
  return builder.build();
}
