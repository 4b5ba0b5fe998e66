// SPDX-License-Identifier: MIT
// Published speeds of DeepSeek-V4-Flash, to stand beside ours. Hardware and engine are named: none was measured here, and
// they were not all taken in the same way.

export interface Published {
  engine: string;
  hardware: string;
  /** Month and day of 2026. */
  date: string;
  source: string;
}

const twoCards = '2x RTX PRO 6000, TP 2';

/** Prompt tokens a second by prompt length. */
export const PREFILL: readonly (Published & { points: readonly (readonly [tokens: number, tokensPerSecond: number])[] })[] = [
  {
    engine: 'vLLM fork, one head a block, MTP 2',
    hardware: twoCards,
    date: '05-16',
    source: 'the prefill pull request',
    points: [
      [1036, 2746],
      [4491, 3122],
      [17891, 2474],
      [63543, 1679],
    ],
  },
  {
    engine: 'vLLM fork, eight heads a block, MTP 2',
    hardware: twoCards,
    date: '05-16',
    source: 'the prefill pull request',
    points: [
      [1036, 4100],
      [4491, 4271],
      [17891, 3360],
      [63543, 2146],
    ],
  },
  {
    engine: 'vLLM fork, tuned later',
    hardware: twoCards,
    date: '05-21',
    source: 'vllm-ds4-sm120-harness',
    points: [
      [1036, 6350],
      [4491, 6091],
      [17891, 5587],
      [63543, 4606],
    ],
  },
  {
    engine: 'vLLM with b12x-a8, no drafts',
    hardware: twoCards,
    date: '07-04',
    source: 'rtx6kpro v9',
    points: [
      [8192, 13623],
      [65536, 13135],
      [131072, 12140],
    ],
  },
  {
    engine: 'vLLM with b12x-a8-dglin, MTP 2',
    hardware: twoCards,
    date: '07-04',
    source: 'rtx6kpro v9',
    points: [
      [8192, 13339],
      [65536, 12807],
      [131072, 11785],
    ],
  },
];

/** Generated tokens a second by streams. */
export const DECODE: readonly (Published & { points: readonly (readonly [streams: number, tokensPerSecond: number])[] })[] = [
  {
    engine: 'vLLM with b12x-a16, no drafts',
    hardware: twoCards,
    date: '07-04',
    source: 'rtx6kpro v9',
    points: [
      [1, 142.6],
      [16, 845.4],
      [32, 1264.5],
      [64, 1884.6],
    ],
  },
  {
    engine: 'vLLM lucifer-cutlass, MTP 2',
    hardware: twoCards,
    date: '07-04',
    source: 'rtx6kpro v9',
    points: [
      [1, 218.5],
      [16, 1199.0],
      [32, 1856.5],
      [64, 2841.5],
    ],
  },
  {
    engine: 'vLLM fork, MTP 2',
    hardware: twoCards,
    date: '05-17',
    source: 'vllm-ds4-sm120-harness',
    points: [
      [1, 165.45],
      [2, 248.49],
      [4, 315.89],
      [8, 529.89],
      [16, 721.09],
      [24, 846.34],
    ],
  },
];

/** Tokens a row and step with two drafts on mt-bench, as published for the original checkpoint. */
export const TYPICAL_ACCEPTED = 2.38;
