// SPDX-License-Identifier: MIT
// Server-sent events of a fetch body, as far as chat completions use them: data lines, comments, [DONE].

/** Yields the parsed JSON of every event. */
export async function* readEvents(body) {
  // Safari's streams cannot be iterated.
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      held += value;
      const events = held.split('\n\n');
      held = events.pop();
      for (const event of events) {
        const data = event
          .split('\n')
          .filter((line) => line.startsWith('data:'))
          .map((line) => line.slice(5).trimStart())
          .join('\n');
        if (data === '[DONE]') return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
