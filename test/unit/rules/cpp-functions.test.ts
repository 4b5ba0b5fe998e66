// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cppFunctions } from '../../helpers/cpp-functions.ts';

test('functions of namespaces and classes are found with their lengths', () => {
  const source = [
    'namespace twelvex {',
    'struct Point {',
    '  int x = f("}");  // }',
    '  int twice() const { return 2 * x; }',
    '};',
    '',
    'int sum(const int* values,',
    '        int count) {',
    '  auto add = [](int a, int b) { return a + b; };',
    '  for (int i = 0; i < count; ++i) {',
    '    use(add(1, values[i]));',
    '  }',
    "  return '{';",
    '}',
    '__global__ void scale_kernel(float* x) {',
    '}',
    '}',
  ].join('\n');
  assert.deepEqual(cppFunctions(source), [
    { name: 'twice', firstLine: 4, lines: 1, device: false },
    { name: 'sum', firstLine: 7, lines: 8, device: false },
    { name: 'scale_kernel', firstLine: 15, lines: 2, device: true },
  ]);
});
