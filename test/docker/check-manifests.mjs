// SPDX-License-Identifier: MIT
// Checks Kubernetes documents (files, or standard input) against the published JSON schemas, and what the schemas
// cannot see: selectors match pod labels, mounts have volumes, the grace period covers preStop and drain.
// usage: node check-manifests.mjs PACKAGES FILE... | -      (PACKAGES: folder with kubernetes-models, @kubernetes-models/*, yaml)
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [packages, ...files] = process.argv.slice(2);
const require = createRequire(pathToFileURL(join(packages, 'index.js')));
const { parseAllDocuments } = require('yaml');
// Custom resources whose schemas no package publishes: their required fields, by hand from the extension's reference.
const byHand = {
  'inference.networking.k8s.io/v1 InferencePool': (doc) =>
    doc.spec.selector?.matchLabels && doc.spec.targetPorts?.[0]?.number > 0 && doc.spec.endpointPickerRef?.name,
  'kustomize.config.k8s.io/v1beta1 Kustomization': (doc) => doc.resources.length > 0,
};

function moduleOf(apiVersion) {
  if (apiVersion.startsWith('keda.sh/')) return `@kubernetes-models/keda/${apiVersion}`;
  if (apiVersion.startsWith('gateway.networking.k8s.io/')) return `@kubernetes-models/gateway-api/${apiVersion}`;
  return `kubernetes-models/${apiVersion}`;
}

function checkSchema(doc) {
  const name = `${doc.apiVersion} ${doc.kind}`;
  if (byHand[name]) {
    if (!byHand[name](doc)) throw new Error('required fields are missing');
    return 'required fields';
  }
  const Model = require(moduleOf(doc.apiVersion))[doc.kind];
  if (!Model) throw new Error(`no schema for ${name}`);
  new Model(doc).validate();
  return 'schema';
}

function checkDeployment(doc) {
  const { selector, template } = doc.spec;
  for (const [key, value] of Object.entries(selector.matchLabels)) {
    if (template.metadata.labels[key] !== value) throw new Error(`selector ${key}=${value} does not match the pod's labels`);
  }
  if (template.spec.enableServiceLinks !== false) throw new Error('a Service named twelvex would set TWELVEX_PORT to tcp://…');
  const [container] = template.spec.containers;
  const at = container.args.indexOf('--drain-timeout');
  const drain = Number(container.args[at + 1]);
  const pause = Number(/(\d+)\)$/.exec(container.lifecycle.preStop.exec.command.at(-1))[1]) / 1000;
  const grace = template.spec.terminationGracePeriodSeconds;
  if (!(at >= 0 && grace >= pause + drain)) throw new Error(`grace period ${grace} s < preStop ${pause} s + drain ${drain} s`);
  for (const mount of container.volumeMounts) {
    if (!template.spec.volumes.some((volume) => volume.name === mount.name)) throw new Error(`no volume ${mount.name}`);
  }
}

let failed = 0;
let checked = 0;
for (const file of files) {
  for (const document of parseAllDocuments(readFileSync(file === '-' ? 0 : file, 'utf8'))) {
    if (document.errors.length > 0) throw document.errors[0];
    const doc = document.toJS();
    if (!doc) continue;
    checked += 1;
    try {
      const how = checkSchema(doc);
      if (doc.kind === 'Deployment') checkDeployment(doc);
      console.log(`ok      ${file} ${doc.kind} ${doc.metadata?.name ?? ''} (${how})`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${file} ${doc.kind}: ${error.message}`);
    }
  }
}
console.log(`${checked - failed} passed, ${failed} failed`);
process.exitCode = failed > 0 || checked === 0 ? 1 : 0;
