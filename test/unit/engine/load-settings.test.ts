// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaultBudget, resolveSettings } from '../../../engine/load-settings.ts';
import type { CheckpointInfo } from '../../../engine/native.ts';
import type { EngineOptions } from '../../../engine/types.ts';
import { demoOptions } from '../../helpers/demo-engine.ts';
import { letterTokenizer } from '../../helpers/engine-run.ts';

function checkpoint(changes: Partial<CheckpointInfo['config']> = {}): CheckpointInfo {
  return {
    config: {
      vocabSize: 1000,
      hiddenSize: 64,
      numLayers: 3,
      numMtpLayers: 1,
      numHeads: 2,
      indexTopk: 8,
      numExperts: 4,
      expertsPerToken: 2,
      maxContext: 100_000,
      bosToken: 0,
      eosToken: 1,
      dspark: false,
      layers: ['swa', 'csa', 'hca'],
      ...changes,
    },
    tensors: [],
    weightsPresent: true,
    cache: [],
  };
}

const settings = (options: Partial<EngineOptions>, config: Partial<CheckpointInfo['config']> = {}, maxLength?: number) =>
  resolveSettings(demoOptions(options), checkpoint(config), { ...letterTokenizer(), maxLength });

test('two drafts where the checkpoint has an MTP block, none where it has not', () => {
  assert.equal(settings({ mtp: -1 }).native.mtp, 2);
  assert.equal(settings({ mtp: -1 }, { numMtpLayers: 0 }).native.mtp, 0);
  assert.equal(settings({ mtp: 4 }).native.mtp, 4);
  assert.throws(() => settings({ mtp: 1 }, { numMtpLayers: 0 }), { code: 'BAD_OPTIONS', message: /no MTP block/ });
});

test('the context is the shorter of what tokenizer and configuration say, unless it is given', () => {
  assert.equal(settings({}).maxModelLen, 100_000);
  assert.equal(settings({}, {}, 8192).maxModelLen, 8192);
  assert.equal(settings({ maxModelLen: 20_000 }, {}, 8192).maxModelLen, 20_000);
  assert.throws(() => settings({ maxModelLen: 1 }), { code: 'BAD_OPTIONS', message: /at least 2/ });
  assert.throws(() => settings({ maxModelLen: 100_001 }), { code: 'BAD_OPTIONS', message: /100000 positions/ });
});

test('a step must have room for all answers with their drafts and some prompt', () => {
  assert.equal(settings({ maxSequences: 16, mtp: 2, stepTokens: 80 }).native.stepTokens, 80);
  assert.throws(() => settings({ maxSequences: 16, mtp: 2, stepTokens: 79 }), { code: 'BAD_OPTIONS', message: /at least 80/ });
});

test('logits for prompt log-probabilities are bounded, whatever a step and the vocabulary are', () => {
  const { logitSlice } = settings({ stepTokens: 8192 }, { vocabSize: 129_280 }).native;
  assert.ok(logitSlice > 0 && logitSlice * 129_280 * 4 < 40e6);
});

test('a tokenizer that stands in for the own one says nothing about the length, and may have fewer tokens but not more', () => {
  assert.equal(settings({ tokenizerPath: '/elsewhere' }, {}, 8192).maxModelLen, 100_000);
  assert.throws(() => settings({}, { vocabSize: 63 }), {
    code: 'BAD_OPTIONS',
    message: /64 tokens, the model only 63.*--tokenizer/,
  });
});

test('ranks that share a GPU share its memory', () => {
  const memory = () => [
    { freeBytes: 100, totalBytes: 200 },
    { freeBytes: 80, totalBytes: 200 },
  ];
  const demand = {
    bytes: { windowBlockBytes: 1, contextBlockBytes: 1, slotBytes: 1 },
    slots: 1,
    stepTokens: 1,
    mtp: 0,
    maxModelLen: 1,
  };
  const budget = (devices: number[]) => defaultBudget({ memory }, { device: 'cuda', devices }, demand);
  assert.equal(budget([0, 1]), 80 * 0.95);
  assert.equal(budget([]), 80 * 0.95);
  assert.equal(budget([1, 1]), 40 * 0.95);
});
