// SPDX-License-Identifier: MIT
// The same API under the base addresses that clients of DeepSeek, OpenAI and Anthropic are set to.

/** Base paths of the hosted DeepSeek API; the API behind them is the same here. */
const base = /^\/(beta|anthropic)(?=\/)/;

/** Endpoints that some clients ask for without /v1, because their base address ends at the host. */
const bare = /^\/(chat\/completions|completions|models|messages|responses)(?=[/?]|$)/;

/** /beta/chat/completions, /chat/completions and /beta/v1/chat/completions → /v1/chat/completions. Other paths stay. */
export function canonicalPath(url: string): string {
  const path = url.replace(base, '');
  return bare.test(path) ? `/v1${path}` : path;
}
