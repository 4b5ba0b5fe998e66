// SPDX-License-Identifier: MIT
// Probes and metrics. None of them touches the engine's thread, so they answer under full load.

import type { FastifyInstance } from 'fastify';
import type { RouteContext } from './context.ts';

export function healthRoutes(app: FastifyInstance, { lifecycle, metrics }: RouteContext): void {
  /** 200 when new requests are served. */
  const readiness = (): { code: number; body: Record<string, unknown> } => {
    const { ok, status, reason } = lifecycle.status();
    const { stage, fraction } = lifecycle.progress;
    const progress = status === 'loading' ? { stage, percent: Math.floor(fraction * 100) } : {};
    return { code: ok ? 200 : 503, body: { status, ...progress, ...(reason !== undefined && { reason }) } };
  };
  for (const path of ['/health', '/v1/health', '/readyz']) {
    app.get(path, (_, reply) => {
      const { code, body } = readiness();
      return reply.code(code).send(body);
    });
  }
  /** 200 as long as a restart would not help: while loading and draining too. */
  app.get('/livez', (_, reply) => {
    const { status } = lifecycle.status();
    return reply.code(status === 'failed' ? 503 : 200).send({ status });
  });
  /** 200 from the moment the model is loaded. */
  app.get('/startupz', (_, reply) => {
    const { code, body } = readiness();
    return lifecycle.isLoaded ? reply.send({ status: 'ok' }) : reply.code(code).send(body);
  });
  app.get('/metrics', async (_, reply) => reply.type(metrics.contentType).send(await metrics.render()));
}
