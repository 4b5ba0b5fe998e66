// SPDX-License-Identifier: MIT
// The playground: one conversation over /v1/chat/completions, live figures from the stream and from /metrics.

import { readEvents } from './events.js';
import { watchMetrics } from './live.js';

const element = (id) => document.getElementById(id);
/** What the model sees: OpenAI messages. */
let messages = [];
/** The request in flight, if any. */
let running;

const SAMPLE_TOOLS = [
  {
    type: 'function',
    function: {
      name: 'get_weather',
      description: 'Get the current weather for a city',
      parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    },
  },
];

function headers() {
  const key = element('key').value;
  return { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

function requestBody() {
  const number = (id) => (element(id).value === '' ? undefined : Number(element(id).value));
  const system = element('system').value.trim();
  return {
    messages: system ? [{ role: 'system', content: system }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true },
    thinking: { type: element('thinking').checked ? 'enabled' : 'disabled' },
    reasoning_effort: element('thinking').checked ? element('effort').value || undefined : undefined,
    temperature: number('temperature'),
    top_p: number('top_p'),
    max_tokens: number('max_tokens'),
    seed: number('seed'),
    tools: element('use-tools').checked ? JSON.parse(element('tools').value) : undefined,
  };
}

function addTurn(kind) {
  const turn = element('turn').content.firstElementChild.cloneNode(true);
  turn.classList.add(kind);
  element('conversation').append(turn);
  const part = (selector) => turn.querySelector(selector);
  return {
    turn,
    text: part('.text'),
    reasoning: part('.reasoning'),
    reasoningText: part('.reasoning pre'),
    calls: part('.calls'),
    footer: part('footer'),
  };
}

/** Keeps the newest text in view unless the reader scrolled up. */
function follow(change) {
  const box = element('conversation');
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  change();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function scrollToEnd() {
  element('conversation').scrollTop = element('conversation').scrollHeight;
}

function showCall(view, call) {
  const form = element('call').content.firstElementChild.cloneNode(true);
  view.calls.append(form);
  return () => {
    form.querySelector('code').textContent = `${call.function.name}(${call.function.arguments})`;
    return form;
  };
}

/** Applies one chunk to the assistant message under construction and to the page. */
function applyDelta(delta, message, view, updates) {
  if (delta.reasoning_content) {
    message.reasoning_content = (message.reasoning_content ?? '') + delta.reasoning_content;
    view.reasoning.hidden = false;
    view.reasoningText.textContent = message.reasoning_content;
  }
  if (delta.content) {
    message.content = (message.content ?? '') + delta.content;
    view.text.textContent = message.content;
  }
  for (const part of delta.tool_calls ?? []) {
    message.tool_calls ??= [];
    const call = (message.tool_calls[part.index] ??= { id: part.id, type: 'function', function: { name: '', arguments: '' } });
    call.function.name += part.function?.name ?? '';
    call.function.arguments += part.function?.arguments ?? '';
    updates[part.index] ??= showCall(view, call);
    updates[part.index]();
  }
}

/** Lets the person answer the model's tool calls; the last answer sends the conversation on. */
function askForResults(message, updates) {
  let open = message.tool_calls.length;
  message.tool_calls.forEach((call, index) => {
    const form = updates[index]();
    form.querySelector('label').hidden = form.querySelector('button').hidden = false;
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      messages.push({ role: 'tool', tool_call_id: call.id, content: form.elements.result.value });
      form.elements.result.disabled = form.querySelector('button').hidden = true;
      if (--open === 0) void run();
    });
  });
}

function showFigures(view, times, usage, finish) {
  const seconds = (times.last - times.first) / 1000;
  const rate = usage && seconds > 0 ? (usage.completion_tokens - 1) / seconds : undefined;
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  if (rate) element('live-rate').textContent = rate.toFixed(rate < 100 ? 1 : 0);
  if (usage) element('live-cached').textContent = `${cached} / ${usage.prompt_tokens}`;
  const parts = [
    finish,
    usage && `${usage.prompt_tokens} + ${usage.completion_tokens} tokens`,
    rate && `${rate.toFixed(1)} tokens/s`,
  ];
  view.footer.textContent = parts.filter(Boolean).join(' · ');
}

/** A turn that was refused leaves the conversation, or all later ones would be refused too; its text can be changed and sent. */
function takeBack(conversation, view, message, reason) {
  if (!message.content && !message.reasoning_content) view.turn.remove();
  addTurn('wrong').text.textContent = reason;
  if (conversation.at(-1)?.role !== 'user') return;
  const { content } = conversation.pop();
  if (element('input').value === '') element('input').value = content;
}

async function run() {
  const conversation = messages;
  const view = addTurn('assistant');
  const message = { role: 'assistant', content: null };
  const updates = [];
  const times = { start: performance.now(), first: 0, last: 0 };
  let usage;
  let finish;
  let fault;
  running = new AbortController();
  element('send').hidden = !(element('stop').hidden = false);
  try {
    const body = JSON.stringify(requestBody());
    const response = await fetch('v1/chat/completions', { method: 'POST', headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of readEvents(response.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      usage = chunk.usage ?? usage;
      const choice = chunk.choices[0];
      if (!choice) continue;
      finish = choice.finish_reason ?? finish;
      if (choice.delta.reasoning_content || choice.delta.content || choice.delta.tool_calls) {
        times.last = performance.now();
        if (!times.first) {
          times.first = times.last;
          element('live-ttft').textContent = `${Math.round(times.first - times.start)} ms`;
        }
      }
      follow(() => applyDelta(choice.delta, message, view, updates));
    }
  } catch (error) {
    finish = error.name === 'AbortError' ? 'stopped' : 'error';
    fault = error;
  }
  running = undefined;
  element('stop').hidden = !(element('send').hidden = false);
  // "New conversation" ends the answer under way; what came of it is the old one's.
  if (conversation !== messages) return;
  if (message.content || message.reasoning_content) view.reasoning.open = !message.content;
  follow(() => {
    showFigures(view, times, usage, finish);
    if (finish === 'tool_calls') askForResults(message, updates);
    if (finish === 'error') takeBack(conversation, view, message, fault.message);
    else conversation.push(message);
  });
}

element('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = element('input').value.trim();
  if (!text || running) return;
  element('input').value = '';
  messages.push({ role: 'user', content: text });
  addTurn('user').text.textContent = text;
  void run();
  scrollToEnd();
});
element('input').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element('composer').requestSubmit();
});
element('stop').addEventListener('click', () => running?.abort());
element('clear').addEventListener('click', () => {
  running?.abort();
  messages = [];
  element('conversation').replaceChildren();
});
element('use-tools').addEventListener('change', ({ target }) => (element('tools').hidden = !target.checked));
element('tools').value = JSON.stringify(SAMPLE_TOOLS, null, 1);
element('key').value = sessionStorage.getItem('twelvex-key') ?? '';
element('key').addEventListener('change', ({ target }) => {
  sessionStorage.setItem('twelvex-key', target.value);
  void showModel();
});
element('settings').addEventListener('click', ({ currentTarget }) => {
  currentTarget.ariaExpanded = String(element('parameters').classList.toggle('open'));
});
for (const output of document.querySelectorAll('output')) {
  const range = element(output.htmlFor.value);
  const show = () => (output.value = range.value);
  range.addEventListener('input', show);
  show();
}

const modelRetryMs = 2000;

/** Names the model in the header; asks again until the server is there and has loaded it. */
async function showModel() {
  const say = (text) => (element('model').textContent = text);
  try {
    const response = await fetch('v1/models', { headers: headers() });
    if (response.status === 401) return say('this server asks for an API key');
    const { data } = await response.json();
    if (response.ok) return say(`${data[0].id} · ${data[0].max_model_len.toLocaleString()} tokens of context`);
    say('waiting for the model…');
  } catch {
    say('no answer from the server');
  }
  setTimeout(showModel, modelRetryMs);
}

void showModel();
watchMetrics((figures) => {
  for (const [id, text] of Object.entries(figures)) element(id).textContent = text;
});
