// SPDX-License-Identifier: MIT
// The pages: the playground at `/`, the API's description at `/docs`. Static files, read once at start.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { FastifyInstance } from 'fastify';

const TYPES = { html: 'text/html', css: 'text/css', js: 'text/javascript' } as const;
const FILES = ['index.html', 'style.css', 'app.js', 'events.js', 'live.js', 'docs.html', 'docs.css', 'docs.js'] as const;
const PAGES: Record<string, string> = { 'index.html': '/', 'docs.html': '/docs' };
/** Nothing but the page's own files and this server's API. */
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'";

/** Registers GET /, GET /docs and GET /playground/*. The files stay in server/playground, also when the code runs from dist/. */
export function registerPlayground(app: FastifyInstance): void {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const folder = new URL(here.includes('/dist/') ? '../../../server/playground/' : '../playground/', import.meta.url);
  for (const name of FILES) {
    const body = readFileSync(new URL(name, folder), 'utf8');
    const type = TYPES[name.split('.')[1] as keyof typeof TYPES];
    app.get(PAGES[name] ?? `/playground/${name}`, (_request, reply) =>
      reply
        .headers({ 'content-type': `${type}; charset=utf-8`, 'content-security-policy': POLICY, 'cache-control': 'no-cache' })
        .send(body),
    );
  }
}
