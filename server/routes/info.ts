// SPDX-License-Identifier: MIT
// GET /version and GET /server_info: what runs here, with which options.

import type { FastifyInstance } from 'fastify';
import type { Config } from '../config.ts';
import { version } from '../version.ts';
import type { RouteContext } from './context.ts';

export function infoRoutes(app: FastifyInstance, { lifecycle, config }: RouteContext): void {
  app.get('/version', () => ({ version }));
  app.get('/server_info', () => {
    const { info } = lifecycle.loaded();
    return { version, model: info, options: withoutSecrets(config), uptime_seconds: Math.floor(process.uptime()) };
  });
}

function withoutSecrets(config: Config): Record<string, unknown> {
  const { apiKey, hfToken, ...shown } = config;
  return { ...shown, apiKey: `${apiKey.length} given`, hfToken: hfToken === undefined ? 'none' : 'given' };
}
