// SPDX-License-Identifier: MIT
// What can be said about a checkpoint and about this build without loading weights.

import { fromNative } from './native-error.ts';
import { loadAddon } from './native.ts';
import type { CheckpointInfo } from './native.ts';

/** Configuration, tensor statistics and cache bytes of a checkpoint; see CheckpointInfo. */
export type CheckpointReport = CheckpointInfo;

export interface BuildInfo {
  version: string;
  cuda: boolean;
  cudaArchs: string[];
  cpu: string;
}

/**
 * Reads configuration and tensor headers of the checkpoint in `path`.
 * @throws EngineError BAD_CHECKPOINT or BAD_CONFIG naming the file at fault.
 */
export function inspectCheckpoint(path: string): CheckpointReport {
  const addon = loadAddon();
  try {
    return addon.inspect(path);
  } catch (cause) {
    throw fromNative(cause);
  }
}

/** Version, instruction sets and CUDA architectures of the native addon. */
export function buildInfo(): BuildInfo {
  return loadAddon().buildInfo();
}
