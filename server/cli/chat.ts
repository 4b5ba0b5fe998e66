// SPDX-License-Identifier: MIT
// twelvex chat: talk to a checkpoint in the terminal. The engine runs in this process; no server is needed.

import { createInterface } from 'node:readline/promises';
import type { Interface } from 'node:readline/promises';
import { stdin, stdout } from 'node:process';
import { buildInfo, createEngine, EngineError, GREEDY } from '../../engine/index.ts';
import type { ChatMessage, Engine, EngineLogger, GenerationRequest, Usage } from '../../engine/index.ts';
import { ConfigError, loadConfig } from '../config.ts';
import type { Config } from '../config.ts';
import { engineOptions, modelDirectory } from '../engine-options.ts';
import { parseArguments } from './arguments.ts';
import { optionsHelp } from './options-text.ts';

export const chatHelp = (): string => `twelvex chat [options]

Talks to a checkpoint in the terminal. Without --model it is the embedded demo checkpoint.

  --system TEXT        instructions for the model
  --temperature T      0 is greedy (default: the checkpoint's)

${optionsHelp(['Model', 'Engine'])}`;

const commands = `  /think on|off   thinking before the answer
  /reset          forget the conversation
  /help           this list
  /exit           leave (also Ctrl-D)`;

const dim = (text: string): string => (stdout.isTTY ? `\x1b[2m${text}\x1b[0m` : text);

const quiet: EngineLogger = { info: () => undefined, debug: () => undefined, warn: () => undefined, error: () => undefined };

interface Conversation {
  engine: Engine;
  system: ChatMessage[];
  messages: ChatMessage[];
  thinking: boolean;
  config: Config;
  temperature: number;
}

/** Runs until the input ends. @throws what loading throws. */
export async function chat(args: readonly string[]): Promise<number> {
  const parsed = parseArguments(args, { flags: ['system', 'temperature'] });
  if (parsed.help) {
    console.log(chatHelp());
    return 0;
  }
  const config = loadConfig(parsed);
  const { system, temperature } = parsed.own;
  if (temperature !== undefined && !(Number(temperature) >= 0 && Number(temperature) <= 2 && temperature.trim() !== '')) {
    throw new ConfigError(`--temperature: expected a number from 0 to 2, got ${JSON.stringify(temperature)}`);
  }
  const engine = await load(config);
  const conversation: Conversation = {
    engine,
    system: system === undefined ? [] : [{ role: 'system', content: system }],
    messages: [],
    thinking: config.thinking,
    config,
    temperature: temperature === undefined ? engine.info.generationDefaults.temperature : Number(temperature),
  };
  console.log(`${engine.info.id} on ${engine.info.device}. /help lists the commands.`);
  await converse(conversation);
  await engine.close();
  return 0;
}

async function load(config: Config): Promise<Engine> {
  const show = (text: string): void => void (stdout.isTTY && stdout.write(`\r\x1b[K${dim(text)}`));
  const directory = await modelDirectory(config, ({ file, doneBytes, totalBytes }) => show(`${file} ${doneBytes}/${totalBytes}`));
  const engine = await createEngine(engineOptions(config, directory, buildInfo()), quiet, (progress) => {
    show(`loading: ${progress.stage} ${Math.floor(progress.fraction * 100)} %`);
  });
  show('');
  return engine;
}

async function converse(conversation: Conversation): Promise<void> {
  const terminal = createInterface({ input: stdin, output: stdout, prompt: '> ' });
  terminal.prompt();
  for await (const line of terminal) {
    const text = line.trim();
    if (text.startsWith('/')) {
      if (!obey(conversation, text)) break;
    } else if (text !== '') {
      await answer(conversation, text, terminal);
    }
    terminal.prompt();
  }
  terminal.close();
}

/** Carries out a command; false ends the conversation. */
function obey(conversation: Conversation, text: string): boolean {
  const [command, argument] = text.split(/\s+/);
  switch (command) {
    case '/exit':
    case '/quit':
      return false;
    case '/reset':
      conversation.messages = [];
      console.log(dim('The conversation starts anew.'));
      return true;
    case '/think':
      conversation.thinking = argument === undefined ? !conversation.thinking : argument === 'on';
      console.log(dim(`Thinking is ${conversation.thinking ? 'on' : 'off'}.`));
      return true;
    case '/help':
      console.log(commands);
      return true;
    default:
      console.log(`There is no ${command}.\n${commands}`);
      return true;
  }
}

/** Streams one answer; Ctrl-C stops it and keeps what there is. What the engine refuses is said, and not kept. */
async function answer(conversation: Conversation, text: string, terminal: Interface): Promise<void> {
  const stop = new AbortController();
  const onInterrupt = (): void => stop.abort();
  terminal.once('SIGINT', onInterrupt);
  const before = conversation.messages;
  conversation.messages = [...before, { role: 'user', content: text }];
  try {
    const { reply, summary } = await streamed(conversation, stop.signal);
    conversation.messages.push(reply);
    console.log(`\n${dim(summary)}`);
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    conversation.messages = before;
    console.log(`\n${error.message}`);
  } finally {
    terminal.off('SIGINT', onInterrupt);
  }
}

async function streamed(conversation: Conversation, signal: AbortSignal): Promise<{ reply: ChatMessage; summary: string }> {
  const reply = { role: 'assistant' as const, reasoning: '', content: '' };
  let summary = '';
  for await (const batch of conversation.engine.generate(generationRequest(conversation, signal))) {
    for (const event of batch) {
      if (event.kind === 'reasoning') {
        stdout.write(dim(event.text));
        reply.reasoning += event.text;
      }
      if (event.kind === 'answer') {
        stdout.write(reply.content === '' && reply.reasoning !== '' ? `\n${event.text}` : event.text);
        reply.content += event.text;
      }
      if (event.kind === 'end') {
        if (event.error !== undefined) throw event.error;
        summary = summarise(event.usage, (event.timing.totalMs - event.timing.firstTokenMs) / 1e3);
      }
    }
  }
  return { reply, summary };
}

function generationRequest(conversation: Conversation, signal: AbortSignal): GenerationRequest {
  const { engine, system, messages, thinking, config, temperature } = conversation;
  return {
    id: `chat-${messages.length}`,
    input: { kind: 'chat', messages: [...system, ...messages], thinking, ...(thinking && { effort: config.reasoningEffort }) },
    sampling: { ...GREEDY, temperature, topP: engine.info.generationDefaults.topP },
    stop: { strings: [], tokens: [], includeInOutput: false, ignoreEos: false, minTokens: 0 },
    n: 1,
    logprobs: -1,
    promptLogprobs: -1,
    signal,
  };
}

function summarise(usage: Usage, seconds: number): string {
  const rate = seconds > 0 ? `${((usage.completionTokens - 1) / seconds).toFixed(1)} tokens/s` : '';
  const cached = usage.cachedTokens > 0 ? `, ${usage.cachedTokens} from the cache` : '';
  const drafts =
    usage.draftedTokens > 0 ? `, ${Math.round((100 * usage.acceptedTokens) / usage.draftedTokens)} % of drafts accepted` : '';
  return `${usage.completionTokens} tokens ${rate} (prompt ${usage.promptTokens}${cached}${drafts})`;
}
