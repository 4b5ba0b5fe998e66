// SPDX-License-Identifier: MIT
// twelvex serve: listens first, so that probes see the load's progress, then loads the model.

import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import type { Logger } from 'pino';
import { buildInfo, createEngine } from '../../engine/index.ts';
import type { Engine } from '../../engine/index.ts';
import { buildApp } from '../app.ts';
import { loadConfig } from '../config.ts';
import type { Config } from '../config.ts';
import { engineOptions, modelDirectory } from '../engine-options.ts';
import { Lifecycle } from '../lifecycle.ts';
import { parseArguments } from './arguments.ts';
import { optionsHelp } from './options-text.ts';

export const serveHelp = (): string => `twelvex serve [options]

Serves a DeepSeek-V4 checkpoint over the OpenAI API. Without --model it serves the embedded demo checkpoint.

${optionsHelp()}`;

/** A running server. */
export interface Service {
  /** Resolves when the server has stopped by itself: the engine broke. */
  readonly failed: Promise<void>;
  /** Takes no new requests, lets running answers finish within the drain timeout, then closes. */
  stop(): Promise<void>;
}

const healthCheckMs = 500;

/** What the engine had to cut off is told within this time, or not at all. */
const lastWordsMs = 1000;

const sweepMs = 50;

/**
 * Starts the server; resolves when the model answers.
 * @throws ConfigError, HubError or EngineError when it cannot start.
 */
export async function serve(args: readonly string[]): Promise<Service | undefined> {
  const parsed = parseArguments(args);
  if (parsed.help) {
    console.log(serveHelp());
    return undefined;
  }
  const config = loadConfig(parsed);
  const logger = pino({ level: config.logLevel });
  const lifecycle = new Lifecycle();
  const app = buildApp(lifecycle, config, logger);
  const url = await app.listen({
    host: config.host,
    port: config.port,
    listenTextResolver: (address) => `listening at ${address}`,
  });
  const engine = await load(config, lifecycle, logger).catch(async (error: unknown) => {
    await closeWithin(app, lastWordsMs);
    throw error;
  });
  lifecycle.ready(engine);
  const { info } = engine;
  console.log(`twelvex serves ${info.id} (${info.device}, context ${info.maxModelLen}) at ${url}/v1`);
  return running({ app, engine, lifecycle, config, logger });
}

async function load(config: Config, lifecycle: Lifecycle, logger: Logger): Promise<Engine> {
  const directory = await modelDirectory(config, ({ file, doneBytes, totalBytes }) => {
    const fraction = doneBytes / Math.max(1, totalBytes);
    lifecycle.loading({ stage: 'weights', fraction: 0, detail: `downloading ${file} (${Math.floor(fraction * 100)} %)` });
  });
  return createEngine(engineOptions(config, directory, buildInfo()), logger, (progress) => lifecycle.loading(progress));
}

/** Closes the server. Clients that neither read nor write, and the connections of those that are done, do not hold it up. */
async function closeWithin(app: FastifyInstance, limitMs: number): Promise<void> {
  const until = performance.now() + limitMs;
  const sweep = setInterval(() => {
    if (performance.now() < until) app.server.closeIdleConnections();
    else app.server.closeAllConnections();
  }, sweepMs);
  await app.close();
  clearInterval(sweep);
}

interface Running {
  app: FastifyInstance;
  engine: Engine;
  lifecycle: Lifecycle;
  config: Config;
  logger: Logger;
}

function running({ app, engine, lifecycle, config, logger }: Running): Service {
  let watch: NodeJS.Timeout | undefined;
  const failed = new Promise<void>((resolve) => {
    watch = setInterval(() => {
      const { ok, reason } = engine.health();
      if (ok) return;
      logger.error({ reason }, 'the engine has failed');
      clearInterval(watch);
      resolve();
    }, healthCheckMs).unref();
  });
  return {
    failed,
    async stop() {
      clearInterval(watch);
      lifecycle.drain();
      logger.info('draining');
      const until = performance.now() + config.drainTimeoutMs;
      await engine.drain(config.drainTimeoutMs);
      await closeWithin(app, Math.max(lastWordsMs, until - performance.now()));
      await engine.close();
    },
  };
}
