// SPDX-License-Identifier: MIT
// Which prompts a benchmark sends and when. Seeded, so that two servers get the same load. Pure but for the seed.

export interface WorkloadOptions {
  numPrompts: number;
  /** Tokens of a prompt behind the shared prefix, and of an answer. */
  inputLen: number;
  outputLen: number;
  /** Lengths vary evenly within ±ratio. */
  rangeRatio: number;
  /** Tokens that all prompts of a group begin with. */
  prefixLen: number;
  /** Groups of prompts with the same prefix. */
  prefixes: number;
  /** Requests a second; Infinity sends all at once. */
  requestRate: number;
  /** 1: Poisson arrivals; below 1 burstier, above 1 more even (gamma distributed gaps). */
  burstiness: number;
  seed: number;
}

export interface PlannedRequest {
  atMs: number;
  prompt: number[];
  outputTokens: number;
}

/** A small seeded generator (mulberry32): uniform in [0, 1). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** `alphabet`: token ids of ordinary text. */
export function planWorkload(options: WorkloadOptions, alphabet: readonly number[]): PlannedRequest[] {
  const uniform = random(options.seed);
  const tokens = (count: number): number[] =>
    Array.from({ length: count }, () => alphabet[Math.floor(uniform() * alphabet.length)]!);
  const vary = (length: number): number => {
    const low = Math.max(1, Math.floor(length * (1 - options.rangeRatio)));
    const high = Math.max(low, Math.ceil(length * (1 + options.rangeRatio)));
    return low + Math.floor(uniform() * (high - low + 1));
  };
  const prefixes = Array.from({ length: Math.max(1, options.prefixes) }, () => tokens(options.prefixLen));
  let atMs = 0;
  return Array.from({ length: options.numPrompts }, (_, index) => {
    if (index > 0 && Number.isFinite(options.requestRate)) {
      atMs += (1000 * gamma(options.burstiness, uniform)) / (options.burstiness * options.requestRate);
    }
    const prompt = [...prefixes[index % prefixes.length]!, ...tokens(vary(options.inputLen))];
    return { atMs, prompt, outputTokens: vary(options.outputLen) };
  });
}

/** Gamma(shape, 1) by Marsaglia and Tsang's method (ACM TOMS 26, 2000); shape below 1 through the boost of shape + 1. */
function gamma(shape: number, uniform: () => number): number {
  if (shape < 1) return gamma(shape + 1, uniform) * Math.pow(1 - uniform(), 1 / shape);
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const normal = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    const v = (1 + c * normal) ** 3;
    if (v > 0 && Math.log(1 - uniform()) < 0.5 * normal ** 2 + d * (1 - v + Math.log(v))) return d * v;
  }
}
