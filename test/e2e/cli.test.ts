// SPDX-License-Identifier: MIT
// The commands as people run them.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { buildInfo } from '../../engine/index.ts';
import { demoModel, projectRoot, readProject } from '../helpers/project.ts';

const main = fileURLToPath(new URL('../../server/main.js', import.meta.url));

interface Ran {
  status: number | null;
  stdout: string;
  stderr: string;
}

function run(args: readonly string[], input = '', environment: Record<string, string> = {}): Promise<Ran> {
  return new Promise((resolve) => {
    const env = { ...process.env, ...environment };
    const child = spawn(process.execPath, [main, ...args], { env, stdio: ['pipe', 'pipe', 'pipe'] });
    const ran: Ran = { status: null, stdout: '', stderr: '' };
    child.stdout.on('data', (data) => (ran.stdout += String(data)));
    child.stderr.on('data', (data) => (ran.stderr += String(data)));
    child.on('close', (status) => resolve({ ...ran, status }));
    child.stdin.end(input);
  });
}

describe('twelvex', () => {
  test('lists its commands', async () => {
    const { status, stdout } = await run([]);
    assert.equal(status, 0);
    for (const command of ['serve', 'chat', 'inspect', 'bench']) assert.match(stdout, new RegExp(`twelvex ${command}`));
  });

  for (const command of ['serve', 'chat', 'inspect', 'bench']) {
    test(`${command} --help explains itself`, async () => {
      const { status, stdout } = await run([command, '--help']);
      assert.equal(status, 0);
      assert.match(stdout, new RegExp(`twelvex ${command}`));
      assert.match(stdout, /\n {2}--/);
    });
  }

  test('answers an unknown command with the nearest one', async () => {
    const { status, stderr } = await run(['sevre']);
    assert.equal(status, 1);
    assert.match(stderr, /sevre is not a command; did you mean serve\?/);
  });

  test('says its version', async () => {
    assert.match((await run(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
  });

  test('bench is found under the name that vllm has for it', async () => {
    const { status, stdout } = await run(['bench', 'serve', '--help']);
    assert.equal(status, 0);
    assert.match(stdout, /--num-prompts/);
  });

  const mistakes: [string, string[], RegExp][] = [
    ['a model without --model', ['serve', '/models/x'], /^unexpected argument "\/models\/x".*--model.*\n$/],
    ['a folder that is no checkpoint', ['serve', '--port', '0', '--model', tmpdir()], /config\.json: cannot open/],
    ['a host that there is not', ['serve', '--port', '0', '--host', 'no.such.invalid'], /no\.such\.invalid.*--host\n$/],
    ['a temperature that is none', ['chat', '--temperature', 'hot'], /^--temperature: .*from 0 to 2, got "hot"/],
    ['an operand to chat', ['chat', 'hello'], /^unexpected argument "hello"/],
  ];
  for (const [title, args, message] of mistakes) {
    test(`answers ${title} with what to do instead`, async () => {
      const { status, stderr } = await run(args);
      assert.equal(status, 1);
      assert.match(stderr, message);
      assert.doesNotMatch(stderr, /\n +at /);
    });
  }

  test('says how to build the backend it lacks', { skip: buildInfo().cuda && 'this build has CUDA' }, async () => {
    const { status, stderr } = await run(['chat', '--device', 'cuda']);
    assert.equal(status, 1);
    assert.match(stderr, /no CUDA backend: run TWELVEX_CUDA=1 npm run build with nvcc .* or use --device cpu/);
  });

  test('says what a machine without a usable GPU lacks', { skip: !buildInfo().cuda && 'this build has no CUDA' }, async () => {
    const { status, stderr } = await run(['chat', '--device', 'cuda'], '', { CUDA_VISIBLE_DEVICES: '' });
    assert.equal(status, 1);
    assert.match(stderr, /no GPU can be used: cudaError.*nvidia-smi has to show one.*--gpus all/);
  });

  test('inspect shows configuration, parameters by kind, cache bytes and what fits', async () => {
    const { status, stdout } = await run(['inspect', demoModel, '--memory', '1GB']);
    assert.equal(status, 0);
    assert.match(stdout, /6 \(2 sliding window, 2 CSA, 2 HCA\)/);
    assert.match(stdout, /routed experts +FP4 +216 +10,616,832/);
    assert.match(stdout, /each token of context/);
    const row =
      /\n {2}fp8 +(.*)\n/
        .exec(stdout.slice(stdout.indexOf('What fits')))?.[1]
        ?.split(/ +/)
        .map(Number) ?? [];
    assert.equal(row.length, 6);
    assert.ok(
      row.every((count, index) => index === 0 || count <= row[index - 1]!),
      row.join(' '),
    );
    assert.ok(row[0]! > 10);
  });

  test('inspect prints the sizes that docker/OPERATIONS.md shows', async () => {
    const text = readProject('docker/OPERATIONS.md').replaceAll(/\s+/g, ' ');
    const fits = async (memory: string): Promise<string> => {
      const { stdout } = await run(['inspect', join(projectRoot, 'models/flash'), '--memory', memory, '--tp', '2']);
      for (const size of text.match(/weights take ([\d.]+ GiB)|context costs ([\d.]+ KiB)|a sequence ([\d.]+ MiB)/g)!)
        assert.ok(stdout.includes(/[\d.]+ .iB/.exec(size)![0]), size);
      return stdout
        .slice(stdout.indexOf('What fits'))
        .match(/fp8 with MTP +(.*)/)![1]!
        .replaceAll(/ +/g, ' ');
    };
    const table = [...text.matchAll(/\| (\d+) \| [\d,]+K (?=\|)/g)].map((row) => row[1]).join(' ');
    assert.equal(table, await fits('96GB'));
    const again = /97000MiB make it ([\d, and]+)\./.exec(text)![1]!;
    assert.equal(again.match(/\d+/g)!.join(' '), await fits('97000MiB'));
  });

  test('inspect gives everything as JSON', async () => {
    const { stdout } = await run(['inspect', demoModel, '--json']);
    const report = JSON.parse(stdout) as { tensors: { parameters: number }[] };
    assert.equal(
      report.tensors.reduce((sum, { parameters }) => sum + parameters, 0),
      30_344_580,
    );
  });

  test('inspect says which file is missing', async () => {
    const { status, stderr } = await run(['inspect', '/no/such/model']);
    assert.equal(status, 1);
    assert.match(stderr, /\/no\/such\/model has no config\.json/);
  });

  test('chat keeps a conversation, obeys its commands and counts tokens', async () => {
    const lines = [
      'What is the capital of Norway?',
      '/think off',
      '/nonsense',
      'What sound does a cow make?',
      '/reset',
      '/exit',
      'never read',
    ];
    const { status, stdout } = await run(['chat', '--temperature', '0'], `${lines.join('\n')}\n`);
    assert.equal(status, 0, stdout);
    assert.match(stdout, /Oslo/);
    assert.match(stdout, /Thinking is off/);
    assert.match(stdout, /There is no \/nonsense/);
    assert.match(stdout, /moo/);
    assert.match(stdout, /\d tokens\/s/);
    assert.match(stdout, /The conversation starts anew/);
    assert.doesNotMatch(stdout, /never/);
  });
});
