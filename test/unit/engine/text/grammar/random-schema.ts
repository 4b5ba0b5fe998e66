// SPDX-License-Identifier: MIT

import fc from 'fast-check';

type Schema = Record<string, unknown> | boolean;

const names = fc.constantFrom('a', 'b', 'name', '10', '2', 'é x', 'q"uote', 'back\\slash', '__proto__x');
const small = fc.integer({ min: 0, max: 4 });

const scalars: fc.Arbitrary<Schema> = fc.oneof(
  fc.constant<Schema>({ type: 'string' }),
  fc
    .record({ minLength: small, extra: small })
    .map(({ minLength, extra }) => ({ type: 'string', minLength, maxLength: minLength + extra })),
  fc
    .constantFrom('^[a-c]{1,3}$', 'x+y?', '^(foo|ba[rz])-\\d{2}$', '"q"', '^\\w+\\s\\w+$', '[^a-z"]')
    .map((pattern) => ({ type: 'string', pattern })),
  fc
    .constantFrom('date', 'time', 'date-time', 'email', 'uuid', 'ipv4', 'ipv6', 'hostname', 'uri', 'duration')
    .map((format) => ({ type: 'string', format })),
  fc
    .record({
      pattern: fc.constantFrom('^[a-z0-9-]+$', '^\\w{2,}$', '^[^x"]*$'),
      minLength: small,
      extra: fc.integer({ min: 2, max: 40 }),
    })
    .map(({ pattern, minLength, extra }) => ({ type: 'string', pattern, minLength, maxLength: minLength + extra })),
  fc.constantFrom('email', 'date', 'uuid').map((format) => ({ type: 'string', format, minLength: 5, maxLength: 200 })),
  fc.constant<Schema>({ type: 'integer' }),
  fc.record({ minimum: fc.integer({ min: -1200, max: 1200 }), width: fc.nat(3000) }).map(({ minimum, width }) => ({
    type: 'integer',
    minimum,
    maximum: minimum + width,
  })),
  fc.integer({ min: -30, max: 30 }).map((exclusiveMinimum) => ({ type: 'integer', exclusiveMinimum })),
  fc.constant<Schema>({ type: 'number' }),
  fc
    .record({ minimum: fc.double({ min: -50, max: 50, noNaN: true }), width: fc.double({ min: 0.01, max: 9, noNaN: true }) })
    .map(({ minimum, width }) => ({ type: 'number', minimum, maximum: minimum + width })),
  fc.constant<Schema>({ type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 1 }),
  fc.constant<Schema>({ type: 'boolean' }),
  fc.constant<Schema>({ type: 'null' }),
  fc.constant<Schema>({ type: ['string', 'null'] }),
  fc
    .uniqueArray(fc.oneof(fc.string({ maxLength: 6 }), fc.integer(), fc.constantFrom(null, true, 1.5)), {
      minLength: 1,
      maxLength: 4,
    })
    .map((values) => ({ enum: values })),
  fc.constantFrom({ const: { k: [1, 'x'] } }, { const: 'only' }, {}, true),
);

/** Schemas from the keywords that are enforced. */
export const randomSchema: fc.Arbitrary<Schema> = fc.letrec<{ schema: Schema; object: Schema; array: Schema }>((tie) => ({
  schema: fc.oneof({ maxDepth: 3, withCrossShrink: true }, { arbitrary: scalars, weight: 3 }, tie('object'), tie('array'), {
    arbitrary: fc.array(tie('schema'), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
    weight: 1,
  }),
  object: fc.oneof(
    fc
      .record({
        members: fc.uniqueArray(fc.record({ name: names, schema: tie('schema'), required: fc.boolean() }), {
          selector: ({ name }) => name,
          maxLength: 4,
        }),
        additionalProperties: fc.constantFrom<unknown>(undefined, false, true),
      })
      .map(({ members, additionalProperties }) => ({
        type: 'object',
        properties: Object.fromEntries(members.map(({ name, schema }) => [name, schema])),
        required: members.filter(({ required }) => required).map(({ name }) => name),
        ...(additionalProperties === undefined ? {} : { additionalProperties }),
      })),
    tie('schema').map((additionalProperties) => ({ type: 'object', additionalProperties })),
  ),
  array: fc.oneof(
    fc.record({ items: tie('schema'), minItems: small, extra: small }).map(({ items, minItems, extra }) => ({
      type: 'array',
      items,
      minItems,
      maxItems: minItems + extra,
    })),
    fc
      .record({
        prefixItems: fc.array(tie('schema'), { minLength: 1, maxLength: 3 }),
        items: fc.constantFrom<unknown>(false, { type: 'integer' }),
      })
      .map((keywords) => ({
        type: 'array',
        ...keywords,
      })),
  ),
})).schema;
