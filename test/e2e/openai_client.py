# SPDX-License-Identifier: MIT
"""OpenAI's Python client against a server; argv[1] is its address. Prints one JSON object of what it saw."""

import json
import sys

import openai

url = sys.argv[1]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
messages = [{"role": "user", "content": "What is 12 + 30?"}]
weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}
seen = {}

# The helper that joins deltas: repeated roles, ids or names would show up twice.
with client.chat.completions.stream(model="demo", messages=messages, temperature=0) as stream:
    for _ in stream:
        pass
    message = stream.get_final_completion().choices[0].message
seen["role"], seen["content"] = message.role, message.content

# DeepSeek's own way of reading the thinking: the field is there in every text delta.
reasoning = ""
chunks = client.chat.completions.create(
    model="demo", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
)
usage = None
for chunk in chunks:
    usage = chunk.usage
    if chunk.choices and chunk.choices[0].finish_reason is None:
        reasoning += chunk.choices[0].delta.reasoning_content or ""
seen["reasoning"], seen["usage"] = reasoning, usage.total_tokens

asking = [{"role": "user", "content": "What's the weather in Oslo?"}]
with client.chat.completions.stream(model="demo", messages=asking, tools=[weather], temperature=0) as stream:
    for _ in stream:
        pass
    call = stream.get_final_completion().choices[0].message.tool_calls[0]
seen["call"] = [call.type, call.function.name, json.loads(call.function.arguments)]

with client.responses.stream(model="demo", input="What is 12 + 30?", temperature=0) as stream:
    for _ in stream:
        pass
    seen["response"] = stream.get_final_response().output_text

try:
    client.chat.completions.create(model="demo", messages=messages, temperature=3)
except openai.BadRequestError as error:
    seen["error"] = [error.code, error.param]

try:
    client.with_options(timeout=0.15).chat.completions.create(
        model="demo", messages=messages, extra_body={"ignore_eos": True}
    )
except openai.APITimeoutError:
    seen["timeout"] = True

print(json.dumps(seen))
