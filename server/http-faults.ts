// SPDX-License-Identifier: MIT
// What Node.js refuses by itself, before there is a request or instead of one, gets the same kind of body as every other mistake.

import { STATUS_CODES } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { badRequest } from './errors.ts';
import type { HttpError } from './errors.ts';

/** Node.js's error code → what the client is told; anything else is no HTTP. */
const faults: Record<string, HttpError> = {
  HPE_HEADER_OVERFLOW: badRequest(431, 'the request headers are too large'),
  ERR_HTTP_REQUEST_TIMEOUT: badRequest(408, 'the request did not arrive in time'),
};
const noHttp = badRequest(400, 'the request is not valid HTTP');

/** Responses that have begun on a connection: what is written between their pieces would be read as one of them. */
const begun = new WeakMap<Socket, Set<ServerResponse>>();

/** Answers what does not even parse as HTTP. */
export function refuseBrokenRequest(error: NodeJS.ErrnoException, socket: Socket): void {
  const inAnswer = [...(begun.get(socket) ?? [])].some((response) => response.headersSent);
  if (error.code === 'ECONNRESET' || !socket.writable || inAnswer) {
    socket.destroy();
    return;
  }
  const fault = faults[error.code ?? ''] ?? noHttp;
  const body = JSON.stringify(fault.body());
  const head = Object.entries(headersOf(body)).map(([name, value]) => `${name}: ${value}`);
  socket.end([`HTTP/1.1 ${fault.status} ${STATUS_CODES[fault.status]}`, ...head, '', body].join('\r\n'));
}

/** Refusals that Node.js would make without a body. To be used with `requireHostHeader: false`. */
export function refuseInWords(app: FastifyInstance): void {
  app.server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
    const open = begun.get(socket) ?? new Set();
    begun.set(socket, open.add(response));
    response.once('close', () => open.delete(response));
  });
  app.server.on('checkExpectation', ({ headers }: IncomingMessage, response: ServerResponse) => {
    const fault = badRequest(417, `the only Expect that this server knows is 100-continue, got ${headers.expect}`);
    const body = JSON.stringify(fault.body());
    response.writeHead(fault.status, headersOf(body)).end(body);
  });
  app.addHook('onRequest', async ({ raw, headers }) => {
    if (raw.httpVersion === '1.1' && headers.host === undefined) throw badRequest(400, 'an HTTP/1.1 request needs a Host header');
  });
}

/** The connection ends: what else comes on it may be the body of what was refused. */
function headersOf(body: string): Record<string, string | number> {
  return {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    connection: 'close',
  };
}
