// SPDX-License-Identifier: MIT

import type { Grammar, GrammarService } from '../../../../../engine/text/grammar/service.ts';
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
 * A completion of random allowed tokens. Tokens that close something are preferred, so that most completions end.
 * @returns the ids without the end token; undefined when it does not end within the limit
 */
export async function randomCompletion(
  service: GrammarService,
  grammar: Grammar,
  tokenizer: Tokenizer,
  options: { random: (n: number) => number; limit: number },
): Promise<number[] | undefined> {
  const matcher = await service.open(grammar);
  const ids: number[] = [];
  let accepted: number[] = [];
  try {
    while (ids.length < options.limit) {
      const { masks, failed } = await service.step([{ matcher, accepted, drafts: [] }]);
      if (failed.length > 0) throw new Error('the grammar and its tokens do not agree');
      const allowed = allowedTokens(masks, tokenizer.vocabSize);
      const closing = allowed.filter((id) => id === tokenizer.eosToken || closes(tokenizer, id));
      const pool = closing.length > 0 && options.random(3) > 0 ? closing : allowed;
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

function closes(tokenizer: Tokenizer, id: number): boolean {
  return tokenizer.isControl(id) || /^\s?["}\]]|<\//.test(Buffer.from(tokenizer.tokenBytes(id)).toString());
}
