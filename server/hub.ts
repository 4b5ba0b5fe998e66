// SPDX-License-Identifier: MIT
// `--model` as a directory or as `org/name[@revision]`: the local Hugging Face cache, or a download into it.

import { existsSync } from 'node:fs';
import { mkdir, readFile, stat, statfs, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { HUB_URL, listFiles, modelInfo } from '@huggingface/hub';
import type { ListFileEntry } from '@huggingface/hub';
import { downloadBlob, HubError, linkBlob } from './hub-download.ts';
import type { HubAccess } from './hub-download.ts';

export { HubError } from './hub-download.ts';

export interface HubOptions {
  /** Cache folder that holds `models--org--name`; the layout of the Python and JavaScript hub clients. */
  cacheDir: string;
  /** Default: the library's. */
  endpoint?: string;
  token?: string;
  /** Files downloaded at the same time. */
  concurrency: number;
  onProgress?: (progress: HubProgress) => void;
  signal?: AbortSignal;
}

export interface HubProgress {
  file: string;
  doneBytes: number;
  totalBytes: number;
  doneFiles: number;
  totalFiles: number;
}

const REPOSITORY = /^[\w][\w.-]*\/[\w][\w.-]*$/;
/** What a checkpoint needs; a repository may hold pictures, other formats and sources beside it. */
const WANTED =
  /^(?:[^/]+\.safetensors|model\.safetensors\.index\.json|[^/]*config\.json|tokenizer\.json|encoding\/encoding_dsv4\.py)$/;

/**
 * The directory of a checkpoint. A path that exists wins; otherwise `org/name[@revision]` is looked up in the cache and
 * downloaded when it is not complete there.
 * @throws HubError naming what was tried and what to do.
 */
export async function resolveModel(model: string, options: HubOptions): Promise<string> {
  if (existsSync(model)) return resolve(model);
  const [name, revision = 'main'] = model.split('@') as [string, string?];
  if (!REPOSITORY.test(name)) {
    throw new HubError(`no directory ${model}, and it is not a repository name of the form org/name[@revision]`);
  }
  const folder = join(options.cacheDir, `models--${name.replace('/', '--')}`);
  const cached = await cachedSnapshot(folder, revision);
  if (cached) return cached;
  return downloadSnapshot({ name, revision, folder }, options);
}

/** A complete snapshot in the cache, without any network. */
async function cachedSnapshot(folder: string, revision: string): Promise<string | undefined> {
  const commit = await readFile(join(folder, 'refs', revision), 'utf8').then(
    (text) => text.trim(),
    () => revision,
  );
  const snapshot = join(folder, 'snapshots', commit);
  return (await isComplete(snapshot)) ? snapshot : undefined;
}

async function isComplete(snapshot: string): Promise<boolean> {
  for (const file of ['config.json', 'tokenizer.json']) if (!existsSync(join(snapshot, file))) return false;
  if (existsSync(join(snapshot, 'model.safetensors'))) return true;
  const index = await readFile(join(snapshot, 'model.safetensors.index.json'), 'utf8').catch(() => undefined);
  if (index === undefined) return false;
  const shards = new Set(Object.values((JSON.parse(index) as { weight_map: Record<string, string> }).weight_map));
  return [...shards].every((shard) => existsSync(join(snapshot, shard)));
}

interface Repository {
  name: string;
  revision: string;
  folder: string;
}

async function downloadSnapshot(repository: Repository, options: HubOptions): Promise<string> {
  const access = hubAccess(options);
  const { commit, files } = await describe(repository, access);
  const snapshot = join(repository.folder, 'snapshots', commit);
  const blobs = join(repository.folder, 'blobs');
  await mkdir(blobs, { recursive: true });
  await mkdir(snapshot, { recursive: true });
  await requireSpace(repository, files, blobs);
  const progress = trackProgress(files, options.onProgress);
  await forEachConcurrently(files, options.concurrency, async (file) => {
    const blob = await downloadBlob(
      { url: `${access.endpoint}/${repository.name}/resolve/${commit}/${file.path}`, file, folder: blobs },
      access,
      (delta) => progress.bytes(file.path, delta),
    );
    await linkBlob(blob, join(snapshot, file.path));
    progress.file(file.path);
  });
  const reference = join(repository.folder, 'refs', repository.revision);
  await mkdir(dirname(reference), { recursive: true });
  await writeFile(reference, commit);
  return snapshot;
}

function hubAccess(options: HubOptions): HubAccess {
  const headers: Record<string, string> = options.token ? { authorization: `Bearer ${options.token}` } : {};
  return {
    endpoint: (options.endpoint ?? HUB_URL).replace(/\/$/, ''),
    // The library refuses tokens that do not look like the public hub's; a mirror may use others, so we add the header.
    fetch: (input, init) =>
      fetch(input, {
        ...init,
        headers: { ...(init?.headers as Record<string, string> | undefined), ...headers },
        signal: options.signal ?? null,
      }),
    ...(options.signal ? { signal: options.signal } : {}),
  };
}

async function describe(repository: Repository, access: HubAccess): Promise<{ commit: string; files: ListFileEntry[] }> {
  const { name, revision } = repository;
  const common = { hubUrl: access.endpoint, fetch: access.fetch };
  try {
    const { sha } = await modelInfo({ ...common, name, revision, additionalFields: ['sha'] });
    const files: ListFileEntry[] = [];
    for await (const entry of listFiles({ ...common, repo: name, revision: sha, recursive: true })) {
      if (entry.type === 'file' && WANTED.test(entry.path)) files.push(entry);
    }
    if (!files.some((file) => file.path.endsWith('.safetensors'))) {
      throw new HubError(`${name}@${revision} holds no .safetensors file; expected a DeepSeek-V4 checkpoint`);
    }
    return { commit: sha, files: files.sort((a, b) => a.size - b.size) };
  } catch (cause) {
    if (cause instanceof HubError) throw cause;
    throw new HubError(explain(name, revision, access.endpoint, cause), cause);
  }
}

function explain(name: string, revision: string, endpoint: string, cause: unknown): string {
  const status = (cause as { statusCode?: number }).statusCode;
  if (status === 401 || status === 403)
    return `${endpoint} refuses ${name} (${status}); set HF_TOKEN to a token that may read it`;
  if (status === 404) return `${endpoint} has no repository ${name} with revision ${revision} (or it needs HF_TOKEN)`;
  const reason = cause instanceof Error ? ((cause.cause as Error | undefined)?.message ?? cause.message) : String(cause);
  return `cannot reach ${endpoint} for ${name}: ${reason}; give a local directory, or set HF_ENDPOINT to a mirror`;
}

async function requireSpace(repository: Repository, files: ListFileEntry[], blobs: string): Promise<void> {
  let missing = 0;
  for (const file of files) {
    const blob = join(blobs, file.lfs?.oid ?? file.oid ?? file.path);
    const have = await stat(blob)
      .catch(() => stat(`${blob}.incomplete`))
      .then((info) => info.size)
      .catch(() => 0);
    missing += Math.max(0, file.size - have);
  }
  const { bavail, bsize } = await statfs(blobs);
  if (missing > bavail * bsize) {
    throw new HubError(
      `${repository.name} needs ${gigabytes(missing)} more in ${blobs}, which has ${gigabytes(bavail * bsize)} free; ` +
        'free some space or set HF_HOME to another disk',
    );
  }
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

function trackProgress(files: ListFileEntry[], onProgress: HubOptions['onProgress']) {
  const state = {
    doneBytes: 0,
    totalBytes: files.reduce((sum, file) => sum + file.size, 0),
    doneFiles: 0,
    totalFiles: files.length,
  };
  const report = (file: string) => onProgress?.({ file, ...state });
  return {
    bytes(file: string, delta: number) {
      state.doneBytes += delta;
      report(file);
    },
    file(file: string) {
      state.doneFiles += 1;
      report(file);
    },
  };
}

/** Runs `work` over `items`, `limit` at a time; the first failure stops new ones and is thrown when the others settled. */
async function forEachConcurrently<T>(items: T[], limit: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  let failed = false;
  const lane = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined && !failed; item = queue.shift()) {
      await work(item).catch((error: unknown) => {
        failed = true;
        throw error;
      });
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: Math.max(1, limit) }, lane));
  const rejected = lanes.find((result) => result.status === 'rejected');
  if (rejected) throw rejected.reason;
}
