// SPDX-License-Identifier: MIT
// GET /openapi.json; the page that shows it is among the pages of playground.ts.

import type { FastifyInstance } from 'fastify';
import { openApiDocument } from '../openapi.ts';

export function docsRoutes(app: FastifyInstance): void {
  let document: string | undefined;
  app.get('/openapi.json', (_, reply) => {
    document ??= JSON.stringify(openApiDocument());
    return reply.type('application/json; charset=utf-8').send(document);
  });
}
