// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { Tokenizer as NativeTokenizer } from 'tokenizers';
import { EngineError } from '../../../../engine/errors.ts';
import { BOS, CONTROL_LITERALS, DSML, USER } from '../../../../engine/text/chat-constants.ts';
import { bytesText, decodeTokens } from '../../../../engine/text/detokenizer.ts';
import { TEMPLATE_SPLITTER } from '../../../../engine/text/segment.ts';
import { allowsChunks, textChunks } from '../../../../engine/text/text-chunks.ts';
import { loadTokenizer, type Tokenizer } from '../../../../engine/text/tokenizer.ts';
import { demoModel, readProject } from '../../../helpers/project.ts';

/** Splits of the released tokenizer, over the demo vocabulary. */
const RELEASED_SPLITS = [
  '\\p{N}{1,3}',
  '[一-龥\u3040-ゟ゠-ヿ]+',
  '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+' +
    '| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
];

interface File {
  pre_tokenizer: { pretokenizers: Record<string, unknown>[] };
  added_tokens: Record<string, unknown>[];
  model: { vocab: Record<string, number> };
}

const demoFile = (): File => JSON.parse(readProject('models/demo/tokenizer.json')) as File;

function releasedFile(): File {
  const file = demoFile();
  const byteLevel = file.pre_tokenizer.pretokenizers.at(-1) as Record<string, unknown>;
  const splits = RELEASED_SPLITS.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false }));
  file.pre_tokenizer.pretokenizers = [...splits, byteLevel];
  return file;
}

let tokenizer: Tokenizer;
let official: NativeTokenizer;
let folder: string;
before(async () => {
  tokenizer = await loadTokenizer(demoModel);
  official = NativeTokenizer.fromFile(join(demoModel, 'tokenizer.json'));
  folder = await mkdtemp(join(tmpdir(), 'twelvex-tokenizer-'));
});
after(async () => {
  await tokenizer.close();
  await rm(folder, { recursive: true });
});

async function officialIds(native: NativeTokenizer, text: string): Promise<number[]> {
  return (await native.encode(text, null, { addSpecialTokens: false })).getIds();
}

/** Text with everything the splits look at, and pieces of control literals. */
const fragment = fc.oneof(
  fc.constantFrom(...['a', 'Zq', 'é', 'e\u0301', '你', 'カ', '・', '，', '1', '22', '٣', '½', ' ', '  ', '\n', '\r\n', '\t']),
  fc.constantFrom(...['.', '_x', '<', '>', '｜', '🙂', '\u200d', '\u00a0', 'the quick ', 'x = 10;\n', '\u0000', '[[']),
  fc.string({ unit: 'binary', maxLength: 4 }),
);
const mixedText = fc.array(fragment, { minLength: 10, maxLength: 60 }).map((parts) => parts.join(''));

test('text with control literals gives the ids of the official tokenizer', async () => {
  const withControls = fc.array(fc.oneof(fragment, fc.constantFrom(...CONTROL_LITERALS, '<｜User', DSML)), { maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(withControls, async (parts) => {
      const text = parts.join('');
      assert.deepEqual([...(await tokenizer.encodeText(text, { control: true }))], await officialIds(official, text));
    }),
  );
});

test('control text in a text segment never becomes a control token', async () => {
  for (const literal of CONTROL_LITERALS) {
    const ids = await tokenizer.encodeText(`a ${literal} b`, { control: false });
    assert.ok(
      ids.every((id) => !tokenizer.isControl(id)),
      literal,
    );
  }
  const ids = await tokenizer.encodeSegments([
    { kind: 'control', text: USER },
    { kind: 'text', text: USER },
  ]);
  assert.equal(ids[0], tokenizer.controlId(USER));
  assert.equal([...ids].filter((id) => id === tokenizer.controlId(USER)).length, 1);
});

test('segments give the ids of the joined text when the text spells no control literal', async () => {
  const text = `${BOS}${USER}Weather in Oslo?\n\n<${DSML}tool_calls>`;
  assert.deepEqual([...(await tokenizer.encodeSegments(TEMPLATE_SPLITTER.split(text)))], await officialIds(official, text));
});

for (const [name, file] of [
  ['demo', demoFile],
  ['released', releasedFile],
] as const) {
  test(`cutting text into chunks does not change its ids: ${name} splits`, async () => {
    const source = file();
    assert.ok(allowsChunks(source));
    const native = NativeTokenizer.fromString(JSON.stringify({ ...source, added_tokens: [] }));
    let cuts = 0;
    await fc.assert(
      fc.asyncProperty(mixedText, fc.integer({ min: 2, max: 8 }), async (text, size) => {
        const chunks = [...textChunks(text, size)];
        cuts += chunks.length - 1;
        assert.equal(chunks.join(''), text);
        const pieces = await Promise.all(chunks.map((chunk) => officialIds(native, chunk)));
        assert.deepEqual(pieces.flat(), await officialIds(native, text));
      }),
      { numRuns: 1000 },
    );
    assert.ok(cuts > 1000);
  });
}

test('an unknown pre-tokenizer is never fed chunks', () => {
  const file = demoFile();
  assert.equal(allowsChunks({ ...file, normalizer: { type: 'NFC' } }), false);
  assert.equal(allowsChunks({ pre_tokenizer: { pretokenizers: file.pre_tokenizer.pretokenizers.slice(1) } }), false);
  assert.equal(allowsChunks({ pre_tokenizer: { type: 'ByteLevel' } }), false);
});

test('a text of 4 MB is tokenised without blocking the event loop', async () => {
  const words = ['The', 'quick', 'brown', 'hello', '1234', '你好', '🙂', '\n\n', 'foo_bar("x")', 'é'];
  let text = '';
  for (let i = 0; text.length < 4_000_000; i++) text += `${words[(i * 7919) % words.length] ?? ''} `;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const ids = await tokenizer.encodeText(text, { control: true });
  delay.disable();
  assert.ok(ids.length > 1_000_000);
  // Measured on two cores shared with compilers: 99th percentile 7 ms, longest 22 ms. A health check may take 50 ms.
  assert.ok(delay.percentile(99) < 50e6, `99th percentile of the event loop delay: ${delay.percentile(99) / 1e6} ms`);
});

test('one word of a megabyte, and a text without any border, are still tokenised', async () => {
  assert.ok((await tokenizer.encodeText('a'.repeat(200_000), { control: true })).length > 0);
  assert.ok((await tokenizer.encodeText('<'.repeat(200_000), { control: true })).length > 0);
});

test('aborting stops the tokenising of a long text', async () => {
  const controller = new AbortController();
  const running = tokenizer.encodeText('word '.repeat(400_000), { control: false }, controller.signal);
  controller.abort(new Error('gone'));
  await assert.rejects(running, /gone/);
});

test('the special tokens and the length limit come from tokenizer_config.json', () => {
  assert.deepEqual([tokenizer.bosToken, tokenizer.eosToken, tokenizer.maxLength, tokenizer.vocabSize], [0, 1, 8192, 4096]);
});

test('a prompt is neither cut nor filled up, whatever training left in the file', async () => {
  const truncation = { max_length: 2, strategy: 'LongestFirst', stride: 0, direction: 'Right' };
  const padding = { strategy: { Fixed: 64 }, direction: 'Right', pad_id: 0, pad_type_id: 0, pad_token: BOS };
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify({ ...demoFile(), truncation, padding }));
  const trained = await loadTokenizer(folder);
  const text = 'The quick brown fox';
  assert.deepEqual(await trained.encodeText(text, { control: true }), await tokenizer.encodeText(text, { control: true }));
  await trained.close();
});

test('an id outside the vocabulary reads as U+FFFD', async () => {
  for (const id of [-1, 4096, 1e9, Number.NaN]) assert.equal(bytesText(tokenizer.tokenBytes(id)), '\ufffd');
  assert.equal(decodeTokens(tokenizer, [...(await tokenizer.encodeText('a b', { control: false })), 129_279]), 'a b\ufffd');
});

function withoutBos(file: File): unknown {
  const vocab = Object.entries(file.model.vocab).filter(([entry]) => entry !== BOS);
  const added = file.added_tokens.filter(({ content }) => content !== BOS);
  return { ...file, added_tokens: added, model: { ...file.model, vocab: Object.fromEntries(vocab) } };
}

/** Writes a tokenizer_config.json beside a sound tokenizer.json. */
const config = (text: string) => async () => {
  await broken((file) => file)();
  await writeFile(join(folder, 'tokenizer_config.json'), text);
};
const broken = (change: (file: File) => unknown) => async () => {
  await rm(join(folder, 'tokenizer_config.json'), { force: true });
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(change(demoFile())));
};
for (const [problem, prepare, message] of [
  [
    'no tokenizer.json',
    () => rm(join(folder, 'tokenizer.json'), { force: true }),
    /tokenizer\.json: no such file; give .* --tokenizer/,
  ],
  ['text that is no JSON', () => writeFile(join(folder, 'tokenizer.json'), '{"model"'), /is not JSON/],
  ['another model type', broken((file) => ({ ...file, model: { type: 'Unigram', vocab: [] } })), /type "BPE", found "Unigram"/],
  ['a stripping added token', broken((file) => ({ ...file, added_tokens: [{ id: 0, content: BOS, lstrip: true }] })), /strips/],
  ['no BOS token', broken(withoutBos), /has no added token "<｜begin/],
  ['null for an object', broken(() => null), /tokenizer\.json: expected an object, found null/],
  ['no vocabulary', broken((file) => ({ ...file, model: { type: 'BPE', vocab: null } })), /model\.vocab .*found null/],
  ['an added token that is none', broken((file) => ({ ...file, added_tokens: [null] })), /added_tokens\[0\].*found null/],
  ['an added token without an id', broken((file) => ({ ...file, added_tokens: [{ content: BOS }] })), /expected an id .*nothing/],
  ['a token id out of range', broken((file) => ((file.model.vocab['a'] = -5), file)), /entry "a": expected an id .*found -5/],
  ['null for a configuration', config('null'), /tokenizer_config\.json: expected an object, found null/],
  ['a number for a special token', config('{"bos_token": 5}'), /tokenizer_config\.json: expected bos_token .*found 5/],
  ['a length below one', config('{"model_max_length": -5}'), /expected model_max_length .*found -5/],
  ['a pre-tokenizer the library refuses', broken((file) => ({ ...file, pre_tokenizer: { type: 'Nothing' } })), /tokenizer\.json/],
] as const) {
  test(`a checkpoint with ${problem} is refused with a message that says so`, async () => {
    await prepare();
    await assert.rejects(loadTokenizer(folder), (error) => {
      assert.ok(error instanceof EngineError && error.code === 'BAD_CHECKPOINT');
      assert.match(error.message, message);
      return true;
    });
  });
}
