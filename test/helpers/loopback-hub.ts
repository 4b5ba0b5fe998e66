// SPDX-License-Identifier: MIT
// A server on loopback that speaks the hub's routes for one repository: revision, tree and resolve with ranges and faults.

import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface LoopbackHub {
  endpoint: string;
  /** Every request line, in order. */
  requests: { path: string; range?: string; authorization?: string }[];
  /** Most downloads that were open at once. */
  peakDownloads: number;
  close(): Promise<void>;
}

export interface HubFaults {
  /** Close the connection after this many bytes of every response body. */
  cutAfterBytes?: number;
  /** Answer ranges with the whole file and 200. */
  ignoreRanges?: boolean;
  /** Only this bearer token may read. */
  token?: string;
  /** Sizes to claim instead of the true ones. */
  claimSizes?: Record<string, number>;
  /** Send these bytes instead of the file's. */
  corrupt?: Record<string, Buffer>;
  /** Hold every download open for this long, to see concurrency. */
  holdMs?: number;
}

export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

/** Serves `files` as repository `name`; `.safetensors` files are LFS (SHA-256), the others plain git blobs (SHA-1). */
export async function startLoopbackHub(
  name: string,
  files: Record<string, Buffer>,
  faults: HubFaults = {},
): Promise<LoopbackHub> {
  const hub: LoopbackHub = { endpoint: '', requests: [], peakDownloads: 0, close: async () => {} };
  let open = 0;
  const server = createServer((request, response) => {
    const path = (request.url ?? '').split('?')[0] ?? '';
    hub.requests.push({ path, ...pick(request) });
    if (faults.token && request.headers.authorization !== `Bearer ${faults.token}`) return void response.writeHead(401).end('{}');
    if (path.startsWith(`/api/models/${name}/revision/`)) {
      if (!path.endsWith('/main') && !path.endsWith(COMMIT)) return json(response, { error: 'no such revision' }, 404);
      return json(response, { _id: '1', id: name, modelId: name, sha: COMMIT, likes: 0, downloads: 0, tags: [] });
    }
    if (path === `/api/models/${name}/tree/${COMMIT}`) return json(response, Object.entries(files).map(entryOf(faults)));
    const file = path.split(`/${name}/resolve/${COMMIT}/`)[1];
    if (file === undefined || !files[file]) return json(response, { error: 'Repository not found' }, 404);
    hub.peakDownloads = Math.max(hub.peakDownloads, ++open);
    response.on('close', () => (open -= 1));
    setTimeout(() => send(request, response, faults.corrupt?.[file] ?? files[file]!, faults), faults.holdMs ?? 0);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  hub.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  hub.close = () => {
    server.closeAllConnections();
    return new Promise((done) => server.close(() => done()));
  };
  return hub;
}

function pick(request: IncomingMessage): { range?: string; authorization?: string } {
  const { range, authorization } = request.headers;
  return { ...(range ? { range } : {}), ...(authorization ? { authorization } : {}) };
}

function entryOf(faults: HubFaults) {
  return ([path, data]: [string, Buffer]) => {
    const size = faults.claimSizes?.[path] ?? data.length;
    const oid = createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex');
    const lfs = { oid: createHash('sha256').update(data).digest('hex'), size, pointerSize: 130 };
    return { type: 'file', path, size, oid, ...(path.endsWith('.safetensors') ? { lfs } : {}) };
  };
}

function json(response: ServerResponse, body: unknown, status = 200): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function send(request: IncomingMessage, response: ServerResponse, data: Buffer, faults: HubFaults): void {
  const start = faults.ignoreRanges ? 0 : Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const body = data.subarray(start);
  response.writeHead(start > 0 ? 206 : 200, { 'content-length': body.length });
  if (faults.cutAfterBytes === undefined || body.length <= faults.cutAfterBytes) return void response.end(body);
  response.write(body.subarray(0, faults.cutAfterBytes), () => response.destroy());
}
