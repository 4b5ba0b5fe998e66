// SPDX-License-Identifier: MIT

import { EngineError } from './errors.ts';
import type { EngineErrorCode } from './errors.ts';

const NATIVE_CODES: ReadonlySet<string> = new Set([
  'BAD_CHECKPOINT',
  'BAD_CONFIG',
  'BAD_OPTIONS',
  'INVALID_PLAN',
  'OUT_OF_MEMORY',
  'DEVICE_LOST',
  'UNSUPPORTED',
  'CLOSED',
  'INTERNAL',
]);

/** An error thrown by the addon as an EngineError of the same code; anything else becomes INTERNAL. */
export function fromNative(cause: unknown): EngineError {
  if (cause instanceof EngineError) return cause;
  const code = (cause as { code?: unknown } | null)?.code;
  const message = cause instanceof Error ? cause.message : String(cause);
  const known = typeof code === 'string' && NATIVE_CODES.has(code);
  return new EngineError(known ? (code as EngineErrorCode) : 'INTERNAL', message, {}, cause);
}
