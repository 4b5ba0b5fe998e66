// SPDX-License-Identifier: MIT
// Tools of POST /v1/responses. Codex puts functions of one source (an MCP server, its own agents) into a namespace; to the
// model they are functions whose names begin with it.

import { elements, member, parseMember, sourceText } from '../../engine/index.ts';
import type { ChatInput, JsonNode, JsonText } from '../../engine/index.ts';
import { invalid, unsupported } from '../errors.ts';
import type { JsonBody } from '../schemas/parse.ts';
import type { ResponsesBody } from '../schemas/responses.ts';

type Tool = NonNullable<ResponsesBody['tools']>[number];

/** A function as the client names it. */
export interface ClientName {
  name: string;
  namespace?: string | undefined;
}

/** The name that the model knows a function by. */
export function modelName({ name, namespace }: ClientName): string {
  if (namespace === undefined) return name;
  return namespace.endsWith('__') ? namespace + name : `${namespace}__${name}`;
}

/** Functions as the client names them, by the names that the model writes; what it has made up stays as it is. */
export function clientNames(body: ResponsesBody): (written: string) => { name: string; namespace?: string } {
  const names = new Map<string, { name: string; namespace: string }>();
  for (const { type, name: namespace, tools } of body.tools ?? []) {
    if (type !== 'namespace' || namespace === undefined) continue;
    for (const { name } of tools ?? []) if (name !== undefined) names.set(modelName({ name, namespace }), { name, namespace });
  }
  return (written) => names.get(written) ?? { name: written };
}

/**
 * Function tools in the shape the model was trained on; schemas keep the client's spelling.
 * @throws HttpError for a function without a name.
 */
export function functionTools(body: ResponsesBody, source: JsonBody): JsonText[] {
  if (body.tools === undefined || body.tools.length === 0) return [];
  const nodes = elements(parseMember(source.text, 'tools'));
  return body.tools.flatMap((tool, index) => {
    const at = `tools[${index}]`;
    if (tool.type === 'function') return [functionTool(tool, { at, node: nodes[index], source })];
    if (tool.type !== 'namespace') return [];
    const inner = elements(member(nodes[index], 'tools'));
    return (tool.tools ?? []).flatMap((one, place) =>
      one.type === 'function'
        ? [functionTool(one, { at: `${at}.tools[${place}]`, node: inner[place], source, namespace: tool.name })]
        : [],
    );
  });
}

interface ToolPlace {
  at: string;
  node: JsonNode | undefined;
  source: JsonBody;
  namespace?: string | undefined;
}

function functionTool(tool: Omit<Tool, 'tools'>, { at, node, source, namespace }: ToolPlace): JsonText {
  if (tool.name === undefined || tool.name === '') {
    throw invalid(`${at}.name is required`, `${at}.name`, 'missing_required_parameter');
  }
  const schema = member(node, 'parameters');
  const fields = [
    `"name": ${JSON.stringify(modelName({ name: tool.name, namespace }))}`,
    ...(tool.description === undefined ? [] : [`"description": ${JSON.stringify(tool.description)}`]),
    ...(schema?.kind === 'object' ? [`"parameters": ${sourceText(source.text, schema).json}`] : []),
    ...(tool.strict === true ? ['"strict": true'] : []),
  ];
  return { json: `{${fields.join(', ')}}` };
}

/** @throws HttpError for a choice that is not among the tools. */
export function toolChoiceOf(body: ResponsesBody, hasTools: boolean): Pick<ChatInput, 'toolChoice'> {
  const choice = body.tool_choice;
  if (choice === undefined) return {};
  if (!hasTools && choice !== 'none' && choice !== 'auto') throw invalid('tool_choice needs tools to choose from', 'tool_choice');
  if (typeof choice === 'string') return { toolChoice: choice };
  if (choice.type !== 'function') throw unsupported('tool_choice.type', `tool_choice of type ${choice.type} is not supported`);
  const { name, namespace } = choice;
  if (name === undefined) throw invalid('tool_choice.name is required', 'tool_choice.name', 'missing_required_parameter');
  const group = namespace === undefined ? body.tools : body.tools?.find((tool) => tool.name === namespace)?.tools;
  if (!group?.some((tool) => tool.type === 'function' && tool.name === name)) {
    throw invalid(`tool_choice names the function ${JSON.stringify(name)}, which is not among tools`, 'tool_choice.name');
  }
  return { toolChoice: { name: modelName({ name, namespace }) } };
}
