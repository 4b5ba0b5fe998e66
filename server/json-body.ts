// SPDX-License-Identifier: MIT
// Bodies of megabytes are decoded and parsed in several turns of the event loop: in one it would stand still for 40 ms.

import { letOthersRun } from '../engine/index.ts';
import { invalid } from './errors.ts';
import type { JsonBody } from './schemas/parse.ts';

/** Bytes decoded in one turn: two milliseconds where no character is ASCII. */
const sliceBytes = 256 * 1024;

/**
 * Value and source text of a JSON body in UTF-8. What is done with it next is in a turn of its own if it is large.
 * @throws HttpError 400 when it is not JSON.
 */
export async function readJson(body: Buffer): Promise<JsonBody> {
  const text = await decoded(body);
  const value = parsed(text);
  await letOthersRun(text.length);
  return { value, text };
}

/** The same text as body.toString(), also where the bytes are not UTF-8. */
async function decoded(body: Buffer): Promise<string> {
  let text = '';
  for (let start = 0; start < body.length;) {
    const end = characterBorder(body, start + sliceBytes);
    text += body.toString('utf8', start, end);
    start = end;
    await letOthersRun(body.length);
  }
  return text;
}

/** The border between characters at `at` or up to three bytes in front of it. */
function characterBorder(body: Buffer, at: number): number {
  if (at >= body.length) return body.length;
  for (let border = at; border > at - 4; border--) if ((body[border]! & 0xc0) !== 0x80) return border;
  // More continuation bytes than a character has: this one belongs to none.
  return at;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalid(`the body is not valid JSON: ${(error as Error).message}`, undefined, 'invalid_json');
  }
}
