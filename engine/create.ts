// SPDX-License-Identifier: MIT

import { EngineError } from './errors.ts';
import type { Engine, EngineLogger, EngineOptions, LoadProgress } from './types.ts';

/**
 * Loads a checkpoint and starts serving it.
 * @throws EngineError BAD_CHECKPOINT, BAD_CONFIG, BAD_OPTIONS, OUT_OF_MEMORY or UNSUPPORTED.
 */
export async function createEngine(
  options: EngineOptions,
  _logger: EngineLogger,
  _onProgress: (progress: LoadProgress) => void,
): Promise<Engine> {
  throw new EngineError('UNSUPPORTED', `cannot serve ${options.modelPath}: the native addon is not built yet`);
}
