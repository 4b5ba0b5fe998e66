// SPDX-License-Identifier: MIT
// Who may ask: API keys, and pages of other origins (CORS). Both are off unless options say otherwise.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ApiKeys } from './api-keys.ts';
import type { Config } from './config.ts';
import { tooManyRequests, unauthorized } from './errors.ts';

/** Probes, scrapers and the page itself come without a key; nothing behind these paths is a model's text. */
const openPaths = /^\/(health|v1\/health|livez|readyz|startupz|metrics|docs|openapi\.json|playground\/.*|)$/;

const allowedHeaders =
  'authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta, openai-organization, openai-project';
const exposedHeaders = 'x-request-id, request-id, retry-after, retry-after-ms';

/** Refuses requests without a known key. */
export function requireKeys(app: FastifyInstance, keys: ApiKeys): void {
  app.addHook('onRequest', async (request) => {
    if (openPaths.test(pathOf(request)) || keys.allows(request.headers)) return;
    throw unauthorized(request.headers.authorization !== undefined || request.headers['x-api-key'] !== undefined);
  });
}

/**
 * Bounds the requests that one key has under way; probes and other GETs do not count. Refused before the body is read.
 * @param most 0 for no bound
 */
export function limitKeys(app: FastifyInstance, keys: ApiKeys, most: number): void {
  if (most === 0) return;
  const underWay = new Map<string, number>();
  app.addHook('onRequest', async (request, reply) => {
    const key = request.method === 'POST' ? keys.keyOf(request.headers) : undefined;
    if (key === undefined) return;
    const count = underWay.get(key) ?? 0;
    reply.headers({ 'x-ratelimit-limit-requests': most, 'x-ratelimit-remaining-requests': Math.max(0, most - count - 1) });
    if (count >= most) throw tooManyRequests(most);
    underWay.set(key, count + 1);
    reply.raw.once('close', () => {
      const left = (underWay.get(key) ?? 1) - 1;
      if (left > 0) underWay.set(key, left);
      else underWay.delete(key);
    });
  });
}

/** Lets pages of the given origins read answers. A preflight is answered before keys are asked for: it carries none. */
export function allowOrigins(app: FastifyInstance, origins: Config['corsOrigin']): void {
  if (origins.length === 0) return;
  const any = origins.includes('*');
  app.addHook('onRequest', async (request, reply) => {
    const { origin } = request.headers;
    if (origin === undefined || !(any || origins.includes(origin))) return;
    reply.headers({ 'access-control-allow-origin': any ? '*' : origin, 'access-control-expose-headers': exposedHeaders });
    if (!any) reply.header('vary', 'origin');
    if (request.method === 'OPTIONS') return preflight(request, reply);
  });
}

function preflight(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  // SDKs add headers of their own (x-stainless-…); what the browser asks for is what the page will send.
  const asked = request.headers['access-control-request-headers'] ?? allowedHeaders;
  return reply
    .headers({
      'access-control-allow-methods': 'GET, POST, OPTIONS',
      'access-control-allow-headers': asked,
      'access-control-max-age': '600',
    })
    .code(204)
    .send();
}

function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0] ?? '';
}
