// SPDX-License-Identifier: MIT
// Reads small safetensors files: ground truth of the oracle tests.

import { readFileSync } from 'node:fs';

export interface Tensor {
  shape: number[];
  data: Float32Array | Int32Array;
}

interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** F32 and I32 tensors of a file, by name. */
export class Safetensors {
  readonly #tensors = new Map<string, Tensor>();

  constructor(path: string | URL) {
    const file = readFileSync(path);
    const headerBytes = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<string, HeaderEntry>;
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      const [begin, end] = entry.data_offsets;
      const bytes = new Uint8Array(file.subarray(8 + headerBytes + begin, 8 + headerBytes + end)).buffer; // aligned copy
      if (entry.dtype === 'F32') this.#tensors.set(name, { shape: entry.shape, data: new Float32Array(bytes) });
      if (entry.dtype === 'I32') this.#tensors.set(name, { shape: entry.shape, data: new Int32Array(bytes) });
    }
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  floats(name: string): { shape: number[]; data: Float32Array } {
    const tensor = this.#get(name);
    if (!(tensor.data instanceof Float32Array)) throw new Error(`${name} is not F32`);
    return { shape: tensor.shape, data: tensor.data };
  }

  ints(name: string): Int32Array {
    const tensor = this.#get(name);
    if (!(tensor.data instanceof Int32Array)) throw new Error(`${name} is not I32`);
    return tensor.data;
  }

  #get(name: string): Tensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new Error(`no tensor ${name}; there are ${[...this.#tensors.keys()].join(', ')}`);
    return tensor;
  }
}
