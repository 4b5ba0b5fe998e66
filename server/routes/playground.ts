// SPDX-License-Identifier: MIT
// The web playground at `/`: four static files, read once at start.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { FastifyInstance } from 'fastify';

const TYPES = { html: 'text/html', css: 'text/css', js: 'text/javascript' } as const;
const FILES = ['index.html', 'style.css', 'app.js', 'events.js', 'live.js'] as const;
/** Nothing but the page's own files and this server's API. */
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'";

/** Registers GET / and GET /playground/*. The files stay in server/playground, also when the code runs from dist/. */
export function registerPlayground(app: FastifyInstance): void {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const folder = new URL(here.includes('/dist/') ? '../../../server/playground/' : '../playground/', import.meta.url);
  for (const name of FILES) {
    const body = readFileSync(new URL(name, folder), 'utf8');
    const type = TYPES[name.split('.')[1] as keyof typeof TYPES];
    app.get(name === 'index.html' ? '/' : `/playground/${name}`, (_request, reply) =>
      reply
        .headers({ 'content-type': `${type}; charset=utf-8`, 'content-security-policy': POLICY, 'cache-control': 'no-cache' })
        .send(body),
    );
  }
}
