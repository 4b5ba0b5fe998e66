// SPDX-License-Identifier: MIT

import type { StepResult } from './native.ts';
import { bytesText } from './text/detokenizer.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import type { TokenLogprob } from './types.ts';

type TokenTable = Pick<Tokenizer, 'tokenBytes'>;

interface Ranked {
  token: number;
  logprob: number;
  /** Alternatives wanted. */
  width: number;
  /** First alternative in the arrays. */
  first: number;
  tokens: Int32Array;
  logprobs: Float32Array;
}

/** Log-probabilities of the first `tokens.length` tokens that sampling row `sample` accepted. */
export function sampledLogprobs(
  table: TokenTable,
  result: StepResult,
  row: { sample: number; tokens: readonly number[]; width: number },
): TokenLogprob[] {
  const depth = result.accepted.length / result.acceptedCount.length;
  return row.tokens.map((token, i) => {
    const index = row.sample * depth + i;
    return entry(table, {
      token,
      logprob: result.logprobs[index]!,
      width: row.width,
      first: index * result.topWidth,
      tokens: result.topTokens,
      logprobs: result.topLogprobs,
    });
  });
}

/** Collects the log-probabilities of a prompt over its chunks; a chunk that is computed again replaces what was there. */
export class PromptLogprobs {
  readonly #table: TokenTable;
  readonly #prompt: Int32Array;
  readonly #width: number;
  readonly #entries: TokenLogprob[] = [];

  constructor(table: TokenTable, prompt: Int32Array, width: number) {
    this.#table = table;
    this.#prompt = prompt;
    this.#width = width;
    this.#entries.push(entry(table, { ...NOTHING, token: prompt[0]!, logprob: NaN }));
  }

  /** Takes the values of positions [position, position + count), which begin at `place` in the result. */
  add(result: StepResult, chunk: { place: number; position: number; count: number }): void {
    for (let i = 0; i < chunk.count; i++) {
      const next = chunk.position + i + 1;
      if (next >= this.#prompt.length) return;
      const index = chunk.place + i;
      this.#entries[next] = entry(this.#table, {
        token: this.#prompt[next]!,
        logprob: result.promptLogprobs[index]!,
        width: this.#width,
        first: index * result.topWidth,
        tokens: result.promptTopTokens,
        logprobs: result.promptTopLogprobs,
      });
    }
  }

  get complete(): boolean {
    return this.#entries.length === this.#prompt.length;
  }

  get entries(): TokenLogprob[] {
    return this.#entries;
  }
}

const NOTHING = { width: 0, first: 0, tokens: new Int32Array(0), logprobs: new Float32Array(0) };

function entry(table: TokenTable, ranked: Ranked): TokenLogprob {
  const top: TokenLogprob['top'] = [];
  for (let k = 0; k < ranked.width; k++) {
    const token = ranked.tokens[ranked.first + k] ?? -1;
    if (token < 0) break;
    top.push({ ...described(table, token), logprob: ranked.logprobs[ranked.first + k]! });
  }
  return { ...described(table, ranked.token), logprob: ranked.logprob, top };
}

function described(table: TokenTable, token: number): { token: number; bytes: Uint8Array; text: string } {
  const bytes = table.tokenBytes(token);
  return { token, bytes, text: bytesText(bytes) };
}
