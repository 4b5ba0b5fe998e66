// SPDX-License-Identifier: MIT
// Answers of megabytes as pieces of JSON, each made in a turn of the event loop of its own: the ids of a prompt of 4 MB, built
// and serialised at once, would hold up streams and health checks for 100 ms.

import { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import type { FastifyReply } from 'fastify';

/** Texts that are JSON when put together. */
export type JsonPieces = Iterable<string>;

/** Elements, or characters, of one piece: a millisecond's work. */
const pieceLength = 8192;

/** Longer answers go out piece by piece. */
const mostAtOnce = 64 * 1024;

export function json(value: unknown): JsonPieces {
  return [JSON.stringify(value)];
}

export function* jsonObject(members: Record<string, JsonPieces>): JsonPieces {
  let before = '{';
  for (const [name, pieces] of Object.entries(members)) {
    yield `${before}${JSON.stringify(name)}:`;
    yield* pieces;
    before = ',';
  }
  yield '}';
}

/** A list of one object or more. */
export function* jsonList(items: readonly JsonPieces[]): JsonPieces {
  let before = '[';
  for (const pieces of items) {
    yield before;
    yield* pieces;
    before = ',';
  }
  yield ']';
}

export function* jsonNumbers(values: Int32Array): JsonPieces {
  for (let start = 0; start < values.length; start += pieceLength) {
    yield (start === 0 ? '[' : ',') + values.subarray(start, start + pieceLength).join(',');
  }
  yield values.length === 0 ? '[]' : ']';
}

/** A text for each number. */
export function* jsonTexts(values: Int32Array, text: (value: number) => string): JsonPieces {
  for (let start = 0; start < values.length; start += pieceLength) {
    const texts = Array.from(values.subarray(start, start + pieceLength), text);
    yield (start === 0 ? '[' : ',') + JSON.stringify(texts).slice(1, -1);
  }
  yield values.length === 0 ? '[]' : ']';
}

export function* jsonText(text: string): JsonPieces {
  yield '"';
  for (let start = 0; start < text.length;) {
    let end = Math.min(start + pieceLength, text.length);
    // Half of a character is escaped, a whole one is not.
    if (isHighSurrogate(text.charCodeAt(end - 1)) && isLowSurrogate(text.charCodeAt(end))) end += 1;
    yield JSON.stringify(text.slice(start, end)).slice(1, -1);
    start = end;
  }
  yield '"';
}

function isHighSurrogate(unit: number): boolean {
  return (unit & 0xfc00) === 0xd800;
}

function isLowSurrogate(unit: number): boolean {
  return (unit & 0xfc00) === 0xdc00;
}

/** Sends a short answer as others are sent, a long one in pieces as the client takes them. */
export function sendPieces(reply: FastifyReply, pieces: JsonPieces): FastifyReply {
  const source = pieces[Symbol.iterator]();
  let text = '';
  for (let piece = source.next(); piece.done !== true; piece = source.next()) {
    text += piece.value;
    if (text.length > mostAtOnce) return reply.type(contentType).send(Readable.from(pieceByPiece(text, source)));
  }
  return reply.type(contentType).send(text);
}

const contentType = 'application/json; charset=utf-8';

async function* pieceByPiece(first: string, source: Iterator<string>): AsyncGenerator<string> {
  yield first;
  for (let piece = source.next(); piece.done !== true; piece = source.next()) {
    yield piece.value;
    await setImmediate();
  }
}
