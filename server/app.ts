// SPDX-License-Identifier: MIT
// Puts the HTTP application together. Nothing here listens.

import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { finished } from 'node:stream';
import Fastify, { LogController } from 'fastify';
import type { FastifyBaseLogger, FastifyContextConfig, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { allowOrigins, limitKeys, requireKeys } from './access.ts';
import { ApiKeys } from './api-keys.ts';
import type { Config } from './config.ts';
import { compressedBody, methodNotAllowed, notFound, toHttpError } from './errors.ts';
import type { HttpError } from './errors.ts';
import { refuseBrokenRequest, refuseInWords } from './http-faults.ts';
import { readJson } from './json-body.ts';
import type { Lifecycle } from './lifecycle.ts';
import { ServerMetrics } from './metrics.ts';
import { canonicalPath } from './paths.ts';
import { clientLeft, loggedAnswers } from './routes/answer.ts';
import { chatCompletionsRoute } from './routes/chat-completions.ts';
import { completionsRoute } from './routes/completions.ts';
import { docsRoutes } from './routes/docs.ts';
import { healthRoutes } from './routes/health.ts';
import { messagesRoute } from './routes/messages.ts';
import { modelsRoute } from './routes/models.ts';
import { infoRoutes } from './routes/info.ts';
import { registerPlayground } from './routes/playground.ts';
import { renderRoutes } from './routes/render.ts';
import { responsesRoute } from './routes/responses.ts';
import { tokenizeRoute } from './routes/tokenize.ts';
import { TraceExporter } from './traces.ts';
import { followCertificate, readCertificate } from './tls.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** How failures of this route read, where it is not OpenAI's way. */
    errorBody?: (error: HttpError) => object;
  }
}

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

/** Paths that are asked every few milliseconds and would drown the others in the metrics. */
const probes = new Set(['/health', '/v1/health', '/readyz', '/livez', '/metrics', '/version']);

/** How long a request may take to arrive, its body included. Without it half a body keeps a connection for ever. */
const requestTimeoutMs = 5 * 60e3;

/** A request without Host is refused by a hook, with a body. */
const parsing = { requireHostHeader: false };

/** Some programs on Windows put it before their text. */
const byteOrderMark = Buffer.from('\ufeff');

/** An id of the client's own, if it is short and plain; it appears in headers, bodies and logs. */
const plainId = /^[\w.:/+=@-]{1,128}$/;

export function buildApp(lifecycle: Lifecycle, config: Config, logger?: FastifyBaseLogger): FastifyInstance {
  const certificate = readCertificate(config);
  const app = Fastify({
    ...(certificate === undefined ? { http: parsing } : { https: { ...certificate, ...parsing } }),
    ...(logger === undefined ? { logger: false } : { loggerInstance: logger }),
    bodyLimit: config.bodyLimitBytes,
    requestTimeout: requestTimeoutMs,
    genReqId: requestId,
    rewriteUrl: (request) => canonicalPath(request.url ?? '/'),
    logController: new LogController({ disableRequestLogging: true }),
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    frameworkErrors: (error, request, reply) => {
      sendError(error, request, reply);
    },
    clientErrorHandler: refuseBrokenRequest,
  }) as FastifyInstance;
  followCertificate(app, config);
  acceptOnlyJson(app);
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
  });
  app.addHook('onSend', async (_, reply) => {
    // Said with answers that began before, too: their connections are closed behind them.
    if (lifecycle.draining) reply.header('connection', 'close');
  });
  refuseInWords(app);
  allowOrigins(app, config.corsOrigin);
  const keys = new ApiKeys(config);
  requireKeys(app, keys);
  limitKeys(app, keys, config.maxRequestsPerKey);
  const watch = keys.watch(app.log);
  app.addHook('onClose', async () => watch.stop());
  const metrics = new ServerMetrics(lifecycle, config);
  const { otlpTracesEndpoint } = config;
  const traces = otlpTracesEndpoint === undefined ? undefined : new TraceExporter(otlpTracesEndpoint, app.log);
  app.addHook('onClose', async () => traces?.close());
  reportAnswers(app, metrics);
  app.setErrorHandler((error, request, reply) => sendError(error, request, reply));
  app.setNotFoundHandler((request) => {
    throw notFound(request.method, request.url);
  });
  refuseOtherMethods(app, () => {
    const context = { lifecycle, config, metrics, traces };
    chatCompletionsRoute(app, context);
    completionsRoute(app, context);
    messagesRoute(app, context);
    responsesRoute(app, context);
    renderRoutes(app, context);
    docsRoutes(app);
    modelsRoute(app, context);
    tokenizeRoute(app, context);
    healthRoutes(app, context);
    infoRoutes(app, context);
    registerPlayground(app);
  });
  return app;
}

/** Counts every request, and writes the log lines of those that generate nothing. */
function reportAnswers(app: FastifyInstance, metrics: ServerMetrics): void {
  app.addHook('onRequest', async (request, reply) => {
    // The hook onResponse would not tell of clients that leave.
    finished(reply.raw, (cut) => {
      const { method, url } = request;
      const status = cut ? clientLeft : reply.raw.statusCode;
      const handler = request.routeOptions.url ?? 'none';
      if (!probes.has(handler)) metrics.answered({ handler, method, status, seconds: reply.elapsedTime / 1e3 });
      if (loggedAnswers.has(request)) return;
      request.log[method === 'GET' ? 'debug' : 'info'](
        { method, url, status, totalMs: Math.round(reply.elapsedTime) },
        'answered',
      );
    });
  });
}

function requestId(request: { headers: IncomingMessage['headers'] }): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && plainId.test(given) ? given : randomUUID().replaceAll('-', '');
}

/** Bodies are parsed here: what a prompt renders from them needs their source. */
function acceptOnlyJson(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, async ({ headers }: FastifyRequest, body: Buffer) => {
    const encoding = headers['content-encoding'] ?? 'identity';
    if (encoding !== 'identity') throw compressedBody(encoding);
    const marked = body.subarray(0, byteOrderMark.length).equals(byteOrderMark);
    return readJson(marked ? body.subarray(byteOrderMark.length) : body);
  });
}

/** Registers routes, then answers 405 where their paths are asked with another method; Fastify would say 404. */
function refuseOtherMethods(app: FastifyInstance, register: () => void): void {
  const taken = new Map<string, { known: Set<string>; config: FastifyContextConfig }>();
  app.addHook('onRoute', ({ url, method, config = {} }) => {
    const { known } = taken.get(url) ?? { known: new Set() };
    for (const name of [method].flat()) known.add(name);
    taken.set(url, { known, config });
  });
  register();
  for (const [url, { known, config }] of [...taken]) {
    const allowed = [...known];
    app.route({
      config,
      method: methods.filter((method) => !known.has(method)),
      url,
      onRequest: (request) => Promise.reject(methodNotAllowed(request.method, request.url, allowed)),
      handler: () => undefined,
    });
  }
}

function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const answer = toHttpError(error, request.server.initialConfig.bodyLimit);
  // A client that leaves takes the connection away from what is being sent.
  const left = reply.raw.destroyed && (error as { code?: string }).code === 'ERR_STREAM_PREMATURE_CLOSE';
  // 503 is said by the line of the answer; a stack for each would fill the log of a busy server.
  if (answer.status === 500 && !left) request.log.error({ err: error }, 'request failed');
  return reply
    .code(answer.status)
    .header('x-request-id', request.id)
    .headers(answer.options.headers ?? {})
    .type('application/json; charset=utf-8')
    .send(JSON.stringify(request.routeOptions.config.errorBody?.(answer) ?? answer.body()));
}
