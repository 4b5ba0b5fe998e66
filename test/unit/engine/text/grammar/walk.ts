// SPDX-License-Identifier: MIT

import type { Grammar, GrammarService } from '../../../../../engine/text/grammar/service.ts';
import { decodeTokens } from '../../../../../engine/text/detokenizer.ts';
import type { GrammarSpec } from '../../../../../engine/text/grammar/specs.ts';
import { tokenTable, type TokenTable } from '../../../../../engine/text/grammar/token-costs.ts';
import type { Tokenizer } from '../../../../../engine/text/tokenizer.ts';

/** Numbers 0 .. n - 1, the same for the same seed. */
export function randomSource(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

export function allowedTokens(mask: Uint32Array, vocabSize: number): number[] {
  const tokens: number[] = [];
  for (let id = 0; id < vocabSize; id++) if (((mask[id >> 5] ?? 0) >>> (id & 31)) & 1) tokens.push(id);
  return tokens;
}

/**
 * A completion of random allowed tokens. Tokens that close something are preferred, so that most completions end, unless
 * the grammar has to `lead` them to their end within the limit.
 * @returns the ids without the end token; undefined when it does not end within the limit
 */
export async function randomCompletion(
  service: GrammarService,
  grammar: Grammar,
  tokenizer: Tokenizer,
  options: { random: (n: number) => number; limit: number; lead?: boolean },
): Promise<number[] | undefined> {
  const matcher = await service.open(grammar, options.lead === true ? { maxTokens: options.limit } : {});
  const ids: number[] = [];
  let accepted: number[] = [];
  try {
    while (ids.length < options.limit) {
      const { masks, failed } = await service.step([{ matcher, accepted, drafts: [] }]);
      if (failed.length > 0) throw new Error('the grammar and its tokens do not agree');
      const allowed = allowedTokens(masks, tokenizer.vocabSize);
      const closing = allowed.filter((id) => id === tokenizer.eosToken || closes(tokenizer, id));
      const pool = options.lead !== true && closing.length > 0 && options.random(3) > 0 ? closing : allowed;
      const token = pool[options.random(pool.length)] as number;
      if (token === tokenizer.eosToken) return ids;
      ids.push(token);
      accepted = [token];
    }
    return undefined;
  } finally {
    service.release(matcher);
  }
}

/** Texts of some random completions; those that do not end are left out. */
export async function randomTexts(
  { service, tokenizer }: { service: GrammarService; tokenizer: Tokenizer },
  spec: GrammarSpec,
  { count, limit = 300 }: { count: number; limit?: number | undefined },
): Promise<string[]> {
  const grammar = await service.compile(spec, 'response_format');
  const result: string[] = [];
  for (let i = 0; i < count; i++) {
    const ids = await randomCompletion(service, grammar, tokenizer, { random: randomSource(i + 1), limit });
    if (ids !== undefined) result.push(decodeTokens(tokenizer, ids));
  }
  return result;
}

/** The tokens that stand for text. */
export function textTokens(tokenizer: Tokenizer): TokenTable {
  const tokens = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.tokenBytes(id));
  return tokenTable(tokens.map((bytes, id) => (tokenizer.isControl(id) ? new Uint8Array() : bytes)));
}

function closes(tokenizer: Tokenizer, id: number): boolean {
  return tokenizer.isControl(id) || /^\s?["}\]]|<\//.test(Buffer.from(tokenizer.tokenBytes(id)).toString());
}
