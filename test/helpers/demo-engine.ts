// SPDX-License-Identifier: MIT
// The engine over the demo checkpoint, for end-to-end tests.

import { fileURLToPath } from 'node:url';
import { createEngine, GREEDY } from '../../engine/index.ts';
import type { ChatInput, Engine, EngineLogger, EngineOptions, GenerationEvent, GenerationRequest } from '../../engine/index.ts';

/** The project root is three levels up from dist/test/helpers/. */
const DEMO = fileURLToPath(new URL('../../../models/demo', import.meta.url));
const SILENT: EngineLogger = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} };

export function demoOptions(changes: Partial<EngineOptions> = {}): EngineOptions {
  return {
    modelPath: DEMO,
    modelId: 'demo',
    device: 'cpu',
    devices: [0],
    tp: 1,
    threads: 0,
    numerics: 'exact',
    kvCache: 'f32',
    mtp: -1,
    loadFormat: 'auto',
    dummySeed: 0,
    layers: 0,
    maxModelLen: 0,
    maxSequences: 16,
    stepTokens: 512,
    kvMemoryBytes: 0,
    maxItlMs: 1000,
    maxQueuedRequests: 10_000,
    maxQueuedTokens: 1e7,
    prefixCache: true,
    encoder: 'auto',
    ...changes,
  };
}

/** Loads the demo, runs `use`, closes it whatever happens. */
export async function withDemo(changes: Partial<EngineOptions>, use: (engine: Engine) => Promise<void>): Promise<void> {
  const engine = await createEngine(demoOptions(changes), SILENT, () => {});
  try {
    await use(engine);
  } finally {
    await engine.close();
  }
}

export function question(content: string, changes: Partial<ChatInput> = {}): ChatInput {
  return { kind: 'chat', messages: [{ role: 'user', content }], thinking: false, ...changes };
}

export const NO_STOP: GenerationRequest['stop'] = {
  strings: [],
  tokens: [],
  includeInOutput: false,
  ignoreEos: false,
  minTokens: 0,
};

let requests = 0;

export function demoRequest(input: GenerationRequest['input'], changes: Partial<GenerationRequest> = {}): GenerationRequest {
  return {
    id: `demo-${requests++}`,
    input,
    sampling: GREEDY,
    stop: NO_STOP,
    maxTokens: 24,
    n: 1,
    logprobs: -1,
    promptLogprobs: -1,
    ...changes,
  };
}

export async function eventsOf(engine: Engine, request: GenerationRequest): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = [];
  for await (const batch of engine.generate(request)) events.push(...batch);
  return events;
}

/** Simple questions of the kinds the demo model was made for; no two are alike. */
export function questions(count: number): ChatInput[] {
  const capitals = ['France', 'Germany', 'Italy', 'Spain', 'Japan', 'Norway', 'Egypt', 'Peru', 'India', 'Ireland'];
  const animals = ['cat', 'dog', 'turtle', 'bird', 'fox', 'rabbit', 'mouse', 'lion', 'frog', 'horse'];
  return Array.from({ length: count }, (_, i) => {
    const [a, b] = [11 + ((i * 7) % 80), 12 + ((i * 13) % 77)];
    switch (i % 5) {
      case 0:
        return question(`What is ${a} + ${b}?`, { thinking: true });
      case 1:
        return question(`What is the capital of ${capitals[((i / 5) % 10) | 0]}? Answer number ${i}.`);
      case 2:
        return question(`Tell me a story about a ${animals[((i / 5) % 10) | 0]} and ${a} friends.`);
      case 3:
        return question(`What is ${a} - ${b}?`);
      default:
        return question(`Write JSON with name and age of a ${animals[((i / 5) % 10) | 0]} that is ${a} years old.`);
    }
  });
}
