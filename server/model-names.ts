// SPDX-License-Identifier: MIT
// Which model names clients may ask for.

import { modelNotFound } from './errors.ts';
import type { Config } from './config.ts';

/** Names of the hosted DeepSeek API, so that its clients work by changing the host. Two of them choose the thinking mode. */
const hostedNames: Record<string, { thinking?: boolean }> = {
  'deepseek-v4-flash': {},
  'deepseek-flash': {},
  'deepseek-chat': { thinking: false },
  'deepseek-reasoner': { thinking: true },
};

export interface RequestedModel {
  /** As the client wrote it; answers repeat it. */
  name: string;
  /** What the name says about thinking. */
  thinking?: boolean;
}

/** @throws HttpError 404 model_not_found. */
export function requestedModel(name: string | undefined, config: Config, modelId: string): RequestedModel {
  if (name === undefined || name === modelId) return { name: modelId };
  const names = config.servedModelName;
  if (names.length === 0 && Object.hasOwn(hostedNames, name)) return { name, ...hostedNames[name] };
  if (names.includes(name) || names.includes('*')) return { name };
  throw modelNotFound(name, modelId);
}

/** Names that GET /v1/models lists: the reported one first. */
export function listedModels(config: Config, modelId: string): string[] {
  return [...new Set([modelId, ...config.servedModelName.filter((name) => name !== '*')])];
}
