// SPDX-License-Identifier: MIT
// GPT-2's byte alphabet: byte-level BPE writes every byte as one printable character.

/** Bytes that stand for themselves; the others are shifted to U+0100 and up, in order. */
function isPrintable(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

const BYTE_OF_CHAR: ReadonlyMap<number, number> = buildAlphabet();
const CHAR_OF_BYTE: readonly string[] = [...BYTE_OF_CHAR.keys()].map((char) => String.fromCharCode(char));

function buildAlphabet(): Map<number, number> {
  const alphabet = new Map<number, number>();
  let shifted = 0x100;
  for (let byte = 0; byte < 256; byte++) alphabet.set(isPrintable(byte) ? byte : shifted++, byte);
  return alphabet;
}

/** Bytes of a vocabulary entry; undefined when it has a character outside the alphabet. */
export function alphabetBytes(entry: string): Uint8Array | undefined {
  const bytes = new Uint8Array(entry.length);
  for (let i = 0; i < entry.length; i++) {
    const byte = BYTE_OF_CHAR.get(entry.charCodeAt(i));
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}

/** Bytes as a vocabulary entry. */
export function alphabetText(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => CHAR_OF_BYTE[byte]).join('');
}
