// SPDX-License-Identifier: MIT
// One file of a hub repository into the blob folder: resumed, retried, checked against the hub's checksum.

import { createHash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ListFileEntry } from '@huggingface/hub';

/** A download that cannot go on; the message says what to do. */
export class HubError extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'HubError';
  }
}

export interface HubAccess {
  endpoint: string;
  fetch: typeof fetch;
  signal?: AbortSignal;
}

export interface BlobSource {
  url: string;
  file: ListFileEntry;
  /** Folder of blobs, named by checksum. */
  folder: string;
}

/** Attempts without a single new byte before giving up. */
const IDLE_ATTEMPTS = 5;

/**
 * Downloads into `folder/<checksum>`, continuing `<checksum>.incomplete` where an earlier run stopped. Cut connections are
 * resumed from the last byte; a wrong checksum deletes the file and fails.
 * @returns the blob's path.
 */
export async function downloadBlob(source: BlobSource, access: HubAccess, onBytes: (delta: number) => void): Promise<string> {
  const { file, folder } = source;
  const checksum = file.lfs?.oid ?? file.oid;
  if (!checksum) throw new HubError(`the hub gives no checksum for ${file.path}`);
  const blob = join(folder, checksum);
  if (await sizeOf(blob).then((size) => size === file.size)) {
    onBytes(file.size);
    return blob;
  }
  const partial = `${blob}.incomplete`;
  let done = Math.min(await sizeOf(partial), file.size);
  onBytes(done);
  let idle = 0;
  let last: unknown;
  while (done < file.size) {
    const before = done;
    last = await fetchRange(source, access, done, (delta) => {
      done += delta;
      onBytes(delta);
    }).catch((error: unknown) => error);
    if (last instanceof HubError || access.signal?.aborted) throw last;
    idle = done > before ? 0 : idle + 1;
    if (idle >= IDLE_ATTEMPTS) {
      throw new HubError(
        `${file.path}: no data after ${idle} attempts (${reason(last)}); run again to continue at ${done} bytes`,
        last,
      );
    }
    if (done < file.size) await delay(200 * 2 ** idle, undefined, access.signal ? { signal: access.signal } : {});
  }
  await verify(partial, file, checksum);
  await rename(partial, blob);
  return blob;
}

/** Appends what the server sends from byte `start` on. */
async function fetchRange(source: BlobSource, access: HubAccess, start: number, onBytes: (delta: number) => void): Promise<void> {
  const { file, folder } = source;
  const response = await access.fetch(source.url, { headers: start > 0 ? { range: `bytes=${start}-` } : {} });
  if (response.status === 401 || response.status === 403) {
    throw new HubError(`${file.path}: the hub refuses it (${response.status}); set HF_TOKEN to a token that may read it`);
  }
  if (response.status === 404) throw new HubError(`${file.path}: not found at ${source.url}`);
  if (!response.ok || !response.body) throw new Error(`HTTP ${response.status}`);
  // A server that ignores the range sends the file from the start: skip what is there.
  let skip = start > 0 && response.status === 200 ? start : 0;
  const handle = await open(join(folder, `${file.lfs?.oid ?? file.oid}.incomplete`), 'a');
  try {
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      const fresh = skip > 0 ? chunk.subarray(Math.min(skip, chunk.length)) : chunk;
      skip -= chunk.length - fresh.length;
      if (fresh.length === 0) continue;
      await handle.write(fresh).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOSPC') throw error;
        throw new HubError(`the disk of ${folder} is full; free some space and run again, it continues where it stopped`, error);
      });
      onBytes(fresh.length);
    }
  } finally {
    await handle.close();
  }
}

/** LFS files carry a SHA-256 of the content; small ones a git blob SHA-1 (header "blob SIZE\0" before the content). */
async function verify(path: string, file: ListFileEntry, checksum: string): Promise<void> {
  const hash: Hash = file.lfs ? createHash('sha256') : createHash('sha1').update(`blob ${file.size}\0`);
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  const found = hash.digest('hex');
  if (found === checksum) return;
  await rm(path);
  throw new HubError(`${file.path}: checksum ${found} after download, the hub says ${checksum}; the file was removed, run again`);
}

/** `target` becomes a relative symbolic link to the blob, as the hub's own clients lay it out. */
export async function linkBlob(blob: string, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  await rm(target, { force: true });
  await symlink(relative(dirname(target), blob), target);
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    (info) => info.size,
    () => 0,
  );
}

function reason(error: unknown): string {
  if (!(error instanceof Error)) return 'the connection ended early';
  return (error.cause as Error | undefined)?.message ?? error.message;
}
