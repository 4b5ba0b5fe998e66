// SPDX-License-Identifier: MIT
// Server-sent events of a fetch body, as far as chat completions use them: data lines, comments, [DONE].

/** Yields the parsed JSON of every event. */
export async function* readEvents(body) {
  let held = '';
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    held += text;
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
}
