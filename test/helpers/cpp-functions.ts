// SPDX-License-Identifier: MIT
// Finds function bodies in C++ and CUDA text by their braces: enough to measure lengths, not a parser.

export interface CppFunction {
  name: string;
  firstLine: number;
  lines: number;
  device: boolean;
}

const commentOrLiteral =
  /\/\/[^\n]*|\/\*[\s\S]*?\*\/|R"([^(]*)\([\s\S]*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'/g;
const directive = /^[ \t]*#(?:[^\n]*\\\n)*[^\n]*/gm;
const scopeHead = /\b(namespace|class|struct|union|enum|extern)\b[^()]*$/;

const blank = (text: string): string => text.replace(/[^\n]/g, ' ');

/** Functions at namespace or class level, in order of appearance. */
export function cppFunctions(source: string): CppFunction[] {
  const text = source.replace(commentOrLiteral, blank).replace(directive, blank);
  const found: CppFunction[] = [];
  const stack: ({ head: string; start: number } | 'scope' | 'inner')[] = [];
  let headStart = 0;
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at];
    if (char === ';') headStart = at + 1;
    if (char === '{') {
      const head = text.slice(headStart, at);
      const outside = !stack.some((entry) => entry !== 'scope');
      if (outside && scopeHead.test(head)) stack.push('scope');
      else if (outside && head.includes('(')) stack.push({ head, start: headStart + (head.length - head.trimStart().length) });
      else stack.push('inner');
      headStart = at + 1;
    }
    if (char === '}') {
      const open = stack.pop();
      if (typeof open === 'object') found.push(describe(text, open, at));
      headStart = at + 1;
    }
  }
  return found;
}

function describe(text: string, open: { head: string; start: number }, end: number): CppFunction {
  const name = /([\w:~]+)\s*\(/.exec(open.head)?.[1] ?? '(unnamed)';
  const firstLine = text.slice(0, open.start).split('\n').length;
  const lines = text.slice(open.start, end).split('\n').length;
  return { name, firstLine, lines, device: /__(global|device)__/.test(open.head) };
}
