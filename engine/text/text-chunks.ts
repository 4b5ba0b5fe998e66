// SPDX-License-Identifier: MIT
// Cuts long text where cutting cannot change its tokens, so that each native call and each conversion of its result is
// short. The splits of the tokenizer's pre_tokenizer run before BPE and keep these places apart on their own:
//   - a letter followed by no letter, mark or number: nothing in a split pattern continues behind a run of letters;
//   - an ASCII digit next to another ASCII character: digits are isolated first.

const BORDER = /\p{L}(?![\p{L}\p{M}\p{N}])|[0-9](?=[\0-/:-\x7f])|[\0-/:-\x7f](?=[0-9])/gu;

/** Patterns of the pre-tokenizers the borders were derived from: DeepSeek's and the demo checkpoint's. */
const KNOWN_DIGIT_SPLITS = new Set(['\\p{N}{1,3}', '\\p{N}']);

/**
 * Chunks of at least `size` UTF-16 units (the last may be shorter) that concatenate to `text`. A chunk grows until a
 * border is found; one word of megabytes is one chunk.
 */
export function* textChunks(text: string, size: number): Generator<string> {
  let start = 0;
  while (text.length - start > size) {
    BORDER.lastIndex = start + size - 1;
    const border = BORDER.exec(text);
    if (border === null) break;
    const end = border.index + border[0].length;
    yield text.slice(start, end);
    start = end;
  }
  if (start < text.length) yield text.slice(start);
}

/** True when the borders hold for a pre-tokenizer: digits isolated first, no normaliser, no prefix space. */
export function allowsChunks(file: { normalizer?: unknown; pre_tokenizer?: unknown }): boolean {
  const { pretokenizers } = (file.pre_tokenizer ?? {}) as { pretokenizers?: Record<string, unknown>[] };
  const first = pretokenizers?.[0];
  const last = pretokenizers?.at(-1);
  const pattern = (first?.['pattern'] as { Regex?: string } | undefined)?.Regex;
  const isolated = pretokenizers?.slice(0, -1).every((step) => step['type'] === 'Split' && step['behavior'] === 'Isolated');
  return (
    (file.normalizer ?? null) === null &&
    isolated === true &&
    pattern !== undefined &&
    KNOWN_DIGIT_SPLITS.has(pattern) &&
    last?.['type'] === 'ByteLevel' &&
    last['add_prefix_space'] === false &&
    last['use_regex'] === false
  );
}
