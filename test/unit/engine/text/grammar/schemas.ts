// SPDX-License-Identifier: MIT

import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { default as addFormats } from 'ajv-formats';
import type { GrammarSpec } from '../../../../../engine/text/grammar/specs.ts';

export function schemaSpec(schema: unknown, strict = false): GrammarSpec {
  return { kind: 'json-schema', schema: { json: JSON.stringify(schema) }, strict };
}

/** Says whether a document is valid for the schema, formats included. */
export function validator(schema: unknown): ValidateFunction {
  const ajv = new Ajv2020({ strict: false });
  (addFormats as unknown as (instance: Ajv2020) => void)(ajv);
  return ajv.compile(schema as object);
}
