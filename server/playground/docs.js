// SPDX-License-Identifier: MIT
// Shows openapi.json: each operation with its fields and a call to copy.

/** An element with text or children. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  Object.assign(made, attributes);
  made.append(...children);
  return made;
}

/** A schema in a few words: string, 0 to 2, one of … */
function typeText(schema) {
  if (schema.enum) return `one of ${schema.enum.join(', ')}`;
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const branches = schema.anyOf ?? schema.oneOf;
  if (branches) return [...new Set(branches.map(typeText))].join(' or ');
  if (schema.type === 'array') return `list of ${schema.items ? typeText(schema.items) : 'anything'}`;
  const least = schema.minimum ?? schema.exclusiveMinimum;
  const bounds = least === undefined || Math.abs(schema.maximum ?? 1e9) >= 2 ** 31 - 1 ? '' : `, ${least} to ${schema.maximum}`;
  return `${schema.type ?? 'anything'}${bounds}`;
}

function fieldTable(schema) {
  const required = new Set(schema.required);
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) =>
    element(
      'tr',
      {},
      element('td', {}, element('code', {}, name)),
      element('td', {}, typeText(field)),
      element('td', {}, required.has(name) ? 'required' : ''),
    ),
  );
  return element('table', {}, ...rows);
}

function curl(method, path, example) {
  const url = new URL(`.${path}`, location.href).href;
  if (method === 'get') return `curl ${url}`;
  return `curl ${url} -H 'content-type: application/json' \\\n  -d '${JSON.stringify(example)}'`;
}

function operationCard(method, path, operation, schemas) {
  const body = operation.requestBody?.content['application/json'];
  const schema = body && schemas[body.schema.$ref.split('/').at(-1)];
  const forms = schema === undefined ? [] : (schema.anyOf ?? [schema]);
  return element(
    'details',
    { id: `${method} ${path}` },
    element(
      'summary',
      {},
      element('span', { className: 'method' }, method.toUpperCase()),
      element('code', {}, path),
      element('span', { className: 'about' }, ` – ${operation.summary}`),
    ),
    element('p', {}, `Answer: ${operation.responses[200].description}.`),
    ...forms.map(fieldTable),
    element('pre', {}, curl(method, path, body?.example)),
  );
}

const specification = await (await fetch('openapi.json')).json();
document.getElementById('version').textContent = specification.info.version;
const cards = Object.entries(specification.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => operationCard(method, path, operation, specification.components.schemas)),
);
document.getElementById('operations').replaceChildren(...cards);
