"""A model as a process of its own, spoken to as OpenAI's: it waits as it is told, then answers.

`python -m benchmarks.programs.model_server` prints `{"port": …}` once it listens on 127.0.0.1, and
serves until SIGTERM. What it does is said in the last message. As the scripted model takes it,
`slow: 2.0; say: hello`: it waits, then streams one word at once with its usage. `stream: 50 at 40`:
it writes 50 tokens one by one, 40 in a second, or `at 0` one behind the other; each is the time at
which it was written, in nanoseconds since the epoch.
"""

from __future__ import annotations

import asyncio
import json
import re
import time

import orjson
import uvloop
from aiohttp import web

_SLOW = re.compile(r"slow: ([\d.]+)")
_STREAM = re.compile(r"stream: (\d+) at ([\d.]+)")
_CONNECTIONS_WAITING_MAX = 4096


def _chunk(choices: list[dict[str, object]], **more: object) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "waiting"}
    return b"data: %s\n\n" % orjson.dumps({**chunk, "choices": choices, **more})


_ANSWER = b"".join(
    (
        _chunk([{"index": 0, "delta": {"role": "assistant", "content": "hello"}}]),
        _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        _chunk([], usage={"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}),
        b"data: [DONE]\n\n",
    )
)


async def _complete(request: web.Request) -> web.StreamResponse:
    body = orjson.loads(await request.read())
    asked = body["messages"][-1]["content"]
    if (stream := _STREAM.match(asked)) is not None:
        return await _streamed(request, int(stream[1]), float(stream[2]))
    slow = _SLOW.match(asked)
    await asyncio.sleep(float(slow[1]) if slow else 0)
    return web.Response(body=_ANSWER, content_type="text/event-stream")


async def _streamed(request: web.Request, tokens: int, per_s: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for number in range(tokens):
        if per_s:
            # By the clock and not from token to token: what is late once is not late for ever.
            await asyncio.sleep(max(0.0, began_s + number / per_s - loop.time()))
        delta = {"role": "assistant", "content": f"{time.time_ns()} "}
        await response.write(_chunk([{"index": 0, "delta": delta, "finish_reason": None}]))
    usage = {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}
    await response.write(
        _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        + _chunk([], usage=usage)
        + b"data: [DONE]\n\n"
    )
    return response


async def main() -> None:
    """Serve until ended by a signal."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _complete)
    runner = web.AppRunner(app, access_log=None, handle_signals=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=_CONNECTIONS_WAITING_MAX).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
