// SPDX-License-Identifier: MIT
import tseslint from 'typescript-eslint';

/** Layers may import only downwards; test/rules.test.ts checks the finer directions. */
const engineImports = {
  patterns: [
    { group: ['fastify', 'fastify/*', 'zod', 'zod/*', '**/server/*'], message: 'the engine knows no HTTP and no schemas' },
  ],
};

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', 'native/', 'models/', '.cache/', 'docker/'] },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strict],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      eqeqeq: 'error',
      'no-console': 'error',
      'max-depth': ['error', 4],
      'max-params': ['error', 4],
      'max-lines-per-function': ['error', { max: 60, skipBlankLines: false, skipComments: false }],
      'prefer-const': 'error',
      'object-shorthand': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-floating-promises': [
        'error',
        { allowForKnownSafeCalls: [{ from: 'package', package: 'node:test', name: ['test', 'it', 'describe', 'suite'] }] },
      ],
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', ignoreRestSiblings: true }],
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-invalid-void-type': 'off',
      '@typescript-eslint/unified-signatures': 'off',
    },
  },
  { files: ['engine/**/*.ts'], rules: { 'no-restricted-imports': ['error', engineImports] } },
  // Test suites are one long function by nature, and the programs people run talk to the terminal.
  { files: ['test/**/*.ts'], rules: { 'max-lines-per-function': 'off' } },
  { files: ['server/main.ts', 'server/cli/**/*.ts', 'bench/**/*.ts', 'test/**/*.ts'], rules: { 'no-console': 'off' } },
);
