#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// The command line. Signals are handled here, and this is the only place that ends the process.

import { EngineError } from '../engine/index.ts';
import { BenchError, runBench } from './cli/bench.ts';
import { chat } from './cli/chat.ts';
import { inspect } from './cli/inspect.ts';
import { serve } from './cli/serve.ts';
import type { Service } from './cli/serve.ts';
import { ConfigError, unknownOption } from './config.ts';
import { HubError } from './hub.ts';
import { version } from './version.ts';

const usage = `twelvex: DeepSeek-V4 over the OpenAI API

  twelvex serve [options]        serve a checkpoint over HTTP
  twelvex chat [options]         talk to a checkpoint in the terminal
  twelvex inspect DIR [options]  show what a checkpoint holds and what fits into memory
  twelvex bench [options]        put load on a server and measure it

twelvex COMMAND --help lists the options of a command, twelvex --version says which this is.`;

const commands = ['serve', 'chat', 'inspect', 'bench'];

/** Signal → exit status by the shell's convention. */
const signalStatus = { SIGINT: 130, SIGTERM: 143 };

/**
 * Serves until a signal or a failure of the engine. The first SIGINT or SIGTERM drains, a second one ends at once, as does
 * one while the model loads; as the first process of a container nothing but this would end it.
 */
async function runServer(args: readonly string[]): Promise<number> {
  let service: Service | undefined = undefined;
  let stopping = false;
  const stopped = new Promise<number>((resolve, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.on(signal, () => {
        if (service === undefined || stopping) process.exit(signalStatus[signal]);
        stopping = true;
        service.stop().then(() => resolve(0), reject);
      });
    }
  });
  service = await serve(args);
  return service === undefined ? 0 : Promise.race([stopped, service.failed.then(() => 1)]);
}

async function run(args: readonly string[]): Promise<number> {
  const [command, ...rest] = args;
  switch (command) {
    case 'serve':
      return runServer(rest);
    case 'chat':
      return chat(rest);
    case 'inspect':
      return inspect(rest);
    case 'bench':
      // vllm's name for it is bench serve.
      await runBench(rest[0] === 'serve' ? rest.slice(1) : rest, (text) => console.log(text));
      return 0;
    case undefined:
    case 'help':
    case '--help':
    case '-h':
      console.log(usage);
      return 0;
    case '--version':
      console.log(version);
      return 0;
    default:
      throw new ConfigError(`${unknownOption(command, commands).replace('an option', 'a command')}\n\n${usage}`);
  }
}

/** What a user can mend is shown as one line; anything else with its stack. */
function explain(error: unknown): string {
  if (error instanceof ConfigError || error instanceof HubError || error instanceof BenchError) return error.message;
  if (error instanceof EngineError) return `${error.code}: ${error.message}`;
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EADDRINUSE') return `${message}; choose another with --port`;
  if (code === 'EACCES') return `${message}; choose another with --port`;
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND' || code === 'EAI_AGAIN') return `${message}; choose another with --host`;
  return (error as Error).stack ?? String(error);
}

run(process.argv.slice(2)).then(
  (status) => process.exit(status),
  (error: unknown) => {
    console.error(explain(error));
    process.exit(1);
  },
);
