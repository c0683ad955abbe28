"""A model as a process of its own, spoken to as OpenAI's: it waits as it is told, then answers.

`python -m benchmarks.programs.model_server` prints `{"port": …}` once it listens on 127.0.0.1, and
serves until SIGTERM. How long it waits is said in the last message as the scripted model takes it:
`slow: 2.0; say: hello`. The answer is one word, streamed at once with its usage.
"""

from __future__ import annotations

import asyncio
import json
import re

import orjson
import uvloop
from aiohttp import web

_SLOW = re.compile(r"slow: ([\d.]+)")
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


async def _complete(request: web.Request) -> web.Response:
    body = orjson.loads(await request.read())
    slow = _SLOW.match(body["messages"][-1]["content"])
    await asyncio.sleep(float(slow[1]) if slow else 0)
    return web.Response(body=_ANSWER, content_type="text/event-stream")


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
