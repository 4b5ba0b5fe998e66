// SPDX-License-Identifier: MIT
// Figures of the whole server, read from /metrics once a second while the page is visible.

/** Sum of a metric's samples over all labels. */
function total(text, name) {
  let sum = 0;
  for (const line of text.split('\n')) {
    if (line.startsWith(name) && /[ {]/.test(line[name.length] ?? '')) sum += Number(line.slice(line.lastIndexOf(' ') + 1));
  }
  return sum;
}

const percent = (value) => `${Math.round(100 * value)} %`;

/** Calls `show` with texts by element id. The acceptance rate is that of the last requests, not of the server's whole life. */
export function watchMetrics(show) {
  const recent = [];
  async function poll() {
    if (document.hidden) return;
    const text = await fetch('metrics').then((response) => (response.ok ? response.text() : ''));
    if (!text) return;
    const drafted = total(text, 'vllm:spec_decode_num_draft_tokens_total');
    const accepted = total(text, 'vllm:spec_decode_num_accepted_tokens_total');
    if (drafted !== recent.at(-1)?.drafted) recent.push({ drafted, accepted });
    if (recent.length > 10) recent.shift();
    const [first, last] = [recent[0], recent.at(-1)];
    const span = last.drafted - first.drafted;
    show({
      'live-queue': `${total(text, 'vllm:num_requests_running')} / ${total(text, 'vllm:num_requests_waiting')}`,
      'live-kv': percent(total(text, 'vllm:kv_cache_usage_perc')),
      'live-accept': span > 0 ? percent((last.accepted - first.accepted) / span) : '–',
    });
  }
  setInterval(() => void poll().catch(() => {}), 1000);
  void poll().catch(() => {});
}
