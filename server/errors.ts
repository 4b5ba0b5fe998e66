// SPDX-License-Identifier: MIT
// Every failure a client can see, as one table: status, type and code of the nested body
// {"error":{"message","type","param","code"}} that all OpenAI clients read.

import { EngineError, JsonSyntaxError } from '../engine/index.ts';
import type { EngineErrorCode } from '../engine/index.ts';
import { formatBytes } from './option-types.ts';

export type ErrorType = 'invalid_request_error' | 'rate_limit_error' | 'overloaded_error' | 'server_error';

interface ErrorRow {
  status: number;
  type: ErrorType;
  code: string;
}

const row = (status: number, type: ErrorType, code: string): ErrorRow => ({ status, type, code });

const engineErrors: Record<EngineErrorCode, ErrorRow> = {
  INVALID_REQUEST: row(400, 'invalid_request_error', 'invalid_value'),
  CONTEXT_LENGTH_EXCEEDED: row(400, 'invalid_request_error', 'context_length_exceeded'),
  UNSUPPORTED: row(400, 'invalid_request_error', 'unsupported_parameter'),
  QUEUE_FULL: row(503, 'overloaded_error', 'server_overloaded'),
  LOADING: row(503, 'server_error', 'model_loading'),
  CLOSED: row(503, 'server_error', 'server_shutting_down'),
  BAD_CHECKPOINT: row(500, 'server_error', 'engine_error'),
  BAD_CONFIG: row(500, 'server_error', 'engine_error'),
  BAD_OPTIONS: row(500, 'server_error', 'engine_error'),
  INVALID_PLAN: row(500, 'server_error', 'engine_error'),
  OUT_OF_MEMORY: row(500, 'server_error', 'engine_error'),
  DEVICE_LOST: row(500, 'server_error', 'engine_error'),
  INTERNAL: row(500, 'server_error', 'engine_error'),
};

/** Failures that Fastify finds before a handler runs. */
const frameworkErrors: Record<string, ErrorRow & { message?: string }> = {
  FST_ERR_CTP_BODY_TOO_LARGE: row(413, 'invalid_request_error', 'request_too_large'),
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    ...row(415, 'invalid_request_error', 'unsupported_media_type'),
    message: 'send the body as JSON, with the header Content-Type: application/json',
  },
  FST_ERR_CTP_EMPTY_JSON_BODY: row(400, 'invalid_request_error', 'invalid_json'),
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: row(400, 'invalid_request_error', 'invalid_content_length'),
  FST_ERR_BAD_URL: row(400, 'invalid_request_error', 'invalid_url'),
};

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null; [extra: string]: unknown };
}

export interface HttpErrorOptions {
  param?: string;
  headers?: Record<string, string>;
  /** More fields of the error object. */
  extra?: Record<string, unknown>;
}

/** A failure with its HTTP answer. */
export class HttpError extends Error {
  readonly status: number;
  readonly type: ErrorType;
  readonly code: string;
  readonly options: HttpErrorOptions;

  constructor(where: ErrorRow, message: string, options: HttpErrorOptions = {}) {
    super(message);
    this.name = 'HttpError';
    this.status = where.status;
    this.type = where.type;
    this.code = where.code;
    this.options = options;
  }

  body(): ErrorBody {
    const { param, extra } = this.options;
    return { error: { message: this.message, type: this.type, param: param ?? null, code: this.code, ...extra } };
  }
}

type InvalidCode = 'invalid_value' | 'invalid_type' | 'missing_required_parameter' | 'unsupported_parameter' | 'invalid_json';

/** 400 that names the field at fault. */
export function invalid(message: string, param?: string, code: InvalidCode = 'invalid_value'): HttpError {
  return new HttpError(row(400, 'invalid_request_error', code), message, param === undefined ? {} : { param });
}

export function unsupported(param: string, message: string): HttpError {
  return invalid(message, param, 'unsupported_parameter');
}

/** 401; `given` tells a wrong key from a missing one. */
export function unauthorized(given: boolean): HttpError {
  const message = given
    ? 'The API key is not known to this server.'
    : 'This server needs an API key, as Authorization: Bearer KEY or x-api-key: KEY.';
  return new HttpError(row(401, 'invalid_request_error', 'invalid_api_key'), message, {
    headers: { 'www-authenticate': 'Bearer' },
  });
}

/** 429 for a key that has as many requests under way as it may. */
export function tooManyRequests(most: number): HttpError {
  const message = `This API key has ${most} requests under way, which is its limit. Wait for one to finish.`;
  return new HttpError(row(429, 'rate_limit_error', 'rate_limit_exceeded'), message, { headers: retryHeaders(1000) });
}

export function notFound(method: string, url: string): HttpError {
  return new HttpError(row(404, 'invalid_request_error', 'unknown_url'), `there is no ${method} ${url} here`);
}

export function methodNotAllowed(method: string, url: string, allowed: string[]): HttpError {
  const message = `${url} does not take ${method}; it takes ${allowed.join(', ')}`;
  return new HttpError(row(405, 'invalid_request_error', 'method_not_allowed'), message, {
    headers: { allow: allowed.join(', ') },
  });
}

export function modelNotFound(model: string, known: string): HttpError {
  const message = `The model '${model}' does not exist here; this server has '${known}'.`;
  return new HttpError(row(404, 'invalid_request_error', 'model_not_found'), message, { param: 'model' });
}

export function compressedBody(encoding: string): HttpError {
  const message = `the body has the content-encoding ${encoding}; send it uncompressed, without that header`;
  return new HttpError(row(415, 'invalid_request_error', 'unsupported_media_type'), message);
}

export function badRequest(status: number, message: string): HttpError {
  return new HttpError(row(status, 'invalid_request_error', 'bad_request'), message);
}

/**
 * What a client is told about any thrown value. Faults of the server keep their inside to the log.
 * @param bodyLimit bytes that a body may have
 */
export function toHttpError(error: unknown, bodyLimit?: number): HttpError {
  if (error instanceof HttpError) return error;
  if (error instanceof EngineError) return fromEngine(error);
  // A body that is JSON has been read; what its parts are rendered from has a bound on nesting.
  if (error instanceof JsonSyntaxError) return invalid(`the body cannot be used: ${error.message}`);
  const { code, statusCode, message } = error as { code?: string; statusCode?: number; message?: string };
  const known = frameworkErrors[code ?? ''];
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE' && bodyLimit !== undefined) {
    return new HttpError(known!, `the body is larger than ${formatBytes(bodyLimit)}, which this server takes (--body-limit)`);
  }
  if (known !== undefined) return new HttpError(known, known.message ?? message ?? '');
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) return badRequest(statusCode, message ?? 'bad request');
  return internal('internal error of the server; its log says more');
}

/** A repeated request would meet the same fault, so clients are told not to try again. */
function internal(message: string): HttpError {
  return new HttpError(row(500, 'server_error', 'engine_error'), message, { headers: { 'x-should-retry': 'false' } });
}

function fromEngine(error: EngineError): HttpError {
  const where = engineErrors[error.code];
  const { param, promptTokens, maxModelLen, retryAfterMs } = error.details;
  if (where.status === 500) return internal('the engine failed; the log of the server says more');
  if (error.code === 'CONTEXT_LENGTH_EXCEEDED' && promptTokens !== undefined && maxModelLen !== undefined) {
    return contextLengthExceeded(promptTokens, maxModelLen, param ?? 'messages');
  }
  const headers = where.status === 503 ? retryHeaders(retryAfterMs ?? 1000) : undefined;
  return new HttpError(where, error.message, { ...(param !== undefined && { param }), ...(headers && { headers }) });
}

/** Agents recognise this by its text, so the wording is OpenAI's. */
function contextLengthExceeded(promptTokens: number, maxModelLen: number, param: string): HttpError {
  const message =
    `This model's maximum context length is ${maxModelLen} tokens. However, your ${param} resulted in ${promptTokens} tokens. ` +
    `Please reduce the length of the ${param}.`;
  return new HttpError(engineErrors.CONTEXT_LENGTH_EXCEEDED, message, {
    param,
    extra: { n_prompt_tokens: promptTokens, n_ctx: maxModelLen },
  });
}

function retryHeaders(retryAfterMs: number): Record<string, string> {
  return {
    'retry-after': String(Math.max(1, Math.ceil(retryAfterMs / 1000))),
    'retry-after-ms': String(Math.ceil(retryAfterMs)),
  };
}
