// SPDX-License-Identifier: MIT
// Loads @mlc-ai/web-xgrammar, whose package says "type": "module" over a CommonJS file that `import` cannot read.

import { readFileSync } from 'node:fs';
import { createRequire, Module } from 'node:module';

export interface TokenizerInfo {
  dispose(): void;
}

export interface CompiledGrammar {
  dispose(): void;
}

/** Methods abort the WebAssembly module (a RuntimeError) where they are used wrongly. */
export interface GrammarMatcher {
  acceptToken(token: number): boolean;
  /** [ceil(vocabSize / 32)], bit set: the token may come next. */
  getNextTokenBitmask(): Promise<Int32Array>;
  /** True once the stop token has been accepted. */
  isTerminated(): boolean;
  rollBack(tokens: number): void;
  dispose(): void;
}

export interface GrammarCompiler {
  compileGrammar(ebnf: string): Promise<CompiledGrammar>;
}

export interface XGrammar {
  TokenizerInfo: {
    createTokenizerInfo(
      vocabulary: string[],
      type: 'byte_level',
      prependSpace: boolean,
      vocabSize: number,
      stopTokens: number[],
    ): Promise<TokenizerInfo>;
  };
  GrammarCompiler: { createGrammarCompiler(info: TokenizerInfo, cache: boolean): Promise<GrammarCompiler> };
  GrammarMatcher: { createGrammarMatcher(grammar: CompiledGrammar): Promise<GrammarMatcher> };
}

/** `Module.prototype._compile`, which Node documents through `require.extensions` only. */
interface CompilableModule extends Module {
  _compile(source: string, filename: string): void;
}

export function loadXGrammar(): XGrammar {
  const file = createRequire(import.meta.url).resolve('@mlc-ai/web-xgrammar');
  const module = new Module(file) as CompilableModule;
  module.filename = file;
  module._compile(readFileSync(file, 'utf8'), file);
  return module.exports as XGrammar;
}
