// SPDX-License-Identifier: MIT
// Every query of the Grafana dashboard and every alert rule, asked of a real Prometheus that scrapes a real server.
// usage: node check-dashboard.mjs SERVER_URL       (needs `prometheus` and `promtool` on PATH)
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const server = process.argv[2];
const folder = new URL('../../docker/observability/', import.meta.url).pathname;
const work = mkdtempSync(join(tmpdir(), 'twelvex-prometheus-'));
const port = 19093;

const rules = spawnSync('promtool', ['check', 'rules', join(folder, 'alerts.yml')], { encoding: 'utf8' });
if (rules.status !== 0) throw new Error(rules.stdout + rules.stderr);

const config = readFileSync(join(folder, 'prometheus.yml'), 'utf8')
  .replace('scrape_interval: 5s', 'scrape_interval: 1s')
  .replace('/etc/prometheus/alerts.yml', join(folder, 'alerts.yml'))
  .replace('twelvex:8000', new URL(server).host);
writeFileSync(join(work, 'prometheus.yml'), config);
const prometheus = spawn(
  'prometheus',
  [`--config.file=${work}/prometheus.yml`, `--storage.tsdb.path=${work}/data`, `--web.listen-address=127.0.0.1:${port}`],
  { stdio: 'ignore' },
);

async function chat() {
  const response = await fetch(`${server}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content: 'Tell me a story about a fox.' }], max_tokens: 40, stream: true }),
  });
  await response.text();
}

async function ask(query) {
  const response = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(query)}`);
  return response.json();
}

let failed = 0;
try {
  for (let second = 0; second < 8; second++) await Promise.all([chat(), chat(), delay(1000)]);
  await delay(2500);
  const dashboard = JSON.parse(readFileSync(join(folder, 'grafana/dashboards/twelvex.json'), 'utf8'));
  for (const panel of dashboard.panels) {
    for (const { expr } of panel.targets) {
      const query = expr.replaceAll('$__rate_interval', '30s').replaceAll('$instance', '.*');
      const answer = await ask(query);
      const ok = answer.status === 'success' && answer.data.result.length > 0;
      if (!ok) failed += 1;
      const why = ok ? '' : ` -> ${JSON.stringify(answer).slice(0, 200)}`;
      console.log(`${ok ? 'ok     ' : 'FAILED '} ${panel.title}: ${query}${why}`);
    }
  }
  const names = new Set((await (await fetch(`${server}/metrics`)).text()).match(/^[a-z_]+:[a-z_]+/gm));
  const alerts = readFileSync(join(folder, 'alerts.yml'), 'utf8');
  for (const name of new Set(alerts.match(/\b(?:vllm|twelvex):[a-z_]+/g))) {
    if (names.has(name)) continue;
    failed += 1;
    console.log(`FAILED  alerts.yml uses ${name}, which /metrics does not have`);
  }
} finally {
  prometheus.kill('SIGTERM');
  await new Promise((done) => prometheus.on('exit', done));
  rmSync(work, { recursive: true });
}
console.log(failed === 0 ? 'every query is answered' : `${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
