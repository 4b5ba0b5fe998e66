// SPDX-License-Identifier: MIT
// The HTTP application over the demo checkpoint, in the test's own process.

import type { AddressInfo } from 'node:net';
import { createEngine } from '../../engine/index.ts';
import type { Engine, EngineOptions } from '../../engine/index.ts';
import { buildApp } from '../../server/app.ts';
import { loadConfig } from '../../server/config.ts';
import type { OptionKey } from '../../server/config.ts';
import { Lifecycle } from '../../server/lifecycle.ts';
import { demoOptions } from './demo-engine.ts';

export interface DemoServer {
  /** http://127.0.0.1:port */
  url: string;
  engine: Engine;
  lifecycle: Lifecycle;
  close(): Promise<void>;
}

const silent = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} };

/** Listens on a free port of the loopback; the model is loaded when this resolves. */
export async function demoServer(
  options: Partial<Record<OptionKey, unknown>> = {},
  engineOptions: Partial<EngineOptions> = {},
): Promise<DemoServer> {
  const engine = await createEngine(demoOptions(engineOptions), silent, () => {});
  const lifecycle = new Lifecycle(engine);
  const app = buildApp(lifecycle, loadConfig({ values: options }, {}));
  await app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = app.server.address() as AddressInfo;
  const close = async (): Promise<void> => {
    app.server.closeAllConnections();
    await app.close();
    await engine.close();
  };
  return { url: `http://127.0.0.1:${port}`, engine, lifecycle, close };
}
