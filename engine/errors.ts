// SPDX-License-Identifier: MIT

/** Every way the engine refuses or fails. The server maps codes to HTTP statuses; see server/errors.ts. */
export type EngineErrorCode =
  | 'INVALID_REQUEST' // the request can never be served; `param` names the field
  | 'CONTEXT_LENGTH_EXCEEDED' // prompt does not fit the context; details: promptTokens, maxModelLen
  | 'QUEUE_FULL' // admission control; details: retryAfterMs
  | 'LOADING'
  | 'CLOSED' // engine is draining or closed
  | 'BAD_CHECKPOINT'
  | 'BAD_CONFIG'
  | 'BAD_OPTIONS'
  | 'INVALID_PLAN'
  | 'OUT_OF_MEMORY'
  | 'DEVICE_LOST'
  | 'UNSUPPORTED'
  | 'INTERNAL';

export interface EngineErrorDetails {
  /** Request field at fault, as a JSON path ("messages[2].content"). */
  param?: string;
  promptTokens?: number;
  maxModelLen?: number;
  retryAfterMs?: number;
}

/** An error of the engine with a stable code; the message is fit for a client. */
export class EngineError extends Error {
  readonly code: EngineErrorCode;
  readonly details: EngineErrorDetails;

  constructor(code: EngineErrorCode, message: string, details: EngineErrorDetails = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'EngineError';
    this.code = code;
    this.details = details;
  }
}
