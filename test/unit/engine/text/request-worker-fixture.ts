// SPDX-License-Identifier: MIT
// A worker for tests: waits, fails or ends as it is asked.

import { setTimeout as delay } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { answerRequests, FatalError } from '../../../../engine/text/request-worker.ts';

type Query = { wait: number } | { fail: string } | { fatal: string } | { exit: number } | 'cancelled';

let cancelled = 0;

if (parentPort !== null) {
  answerRequests<Query, number>(parentPort, async (query, signal) => {
    if (query === 'cancelled') return { answer: cancelled };
    if ('fail' in query) throw new Error(query.fail);
    if ('fatal' in query) throw new FatalError(query.fatal);
    if ('exit' in query) process.exit(query.exit);
    signal.addEventListener('abort', () => cancelled++);
    await delay(query.wait, undefined, { signal });
    return { answer: query.wait + (workerData as number) };
  });
}
