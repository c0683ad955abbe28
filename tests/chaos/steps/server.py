"""A model and tools as a process of their own, which logs every call, and holds those it is told.

`python -m tests.chaos.steps.server LOG [PACE_S]` prints `{"port": …}` once it listens on 127.0.0.1.
The model is spoken to as OpenAI's; it calls tools as the request's id says (`script.py`), a word
every PACE_S seconds. Calls of a run are numbered from 0: the model's of step n is 2n, the tool's
2n + 1. Each leaves two lines of JSON in LOG, as `tests.chaos.model_server` has them, with `number`;
a tool's with `call_id` and `key`, a model's with what it was `shown` of tools. A line with the
event `effect` says that a tool did what it is for.

A call may be held *inside*, for ever, or right before it is answered (`POST /hold`), until the
one who holds it has waited for all (`GET /held/COUNT`), and has some of them go on
(`POST /go-on/COUNT`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any, Literal, TextIO

from aiohttp import web

from tests.chaos.model_server import arguments, chunk, listen
from tests.chaos.steps.script import TOOLS, steps_of, tool_of, words_of

__all__ = ["READ_TOKENS", "WROTE_TOKENS", "Hold"]

Hold = Literal["inside", "answered"]

READ_TOKENS = 100
"""Of a run's first model call; each later one reads one more."""
WROTE_TOKENS = 5


class StepServer:
    """Answers calls and writes its log, line by line."""

    def __init__(self, log: TextIO, pace_s: float) -> None:
        self._log = log
        self._pace_s = pace_s
        self._calls = count()
        self._holds: dict[str, list[tuple[int, Hold]]] = defaultdict(list)
        self._held: dict[tuple[str, int], str] = {}
        self._went_on = 0
        self._changed = asyncio.Condition()
        self._release = asyncio.Event()
        self._done: dict[str, str] = {}

    def routes(self) -> list[web.RouteDef]:
        """Give what is served where."""
        return [
            web.post("/v1/chat/completions", self._complete),
            web.post("/v1/tools/{name}", self._tool),
            web.post("/v1/became/{name}", self._became),
            web.post("/v1/hold", self._hold),
            web.get("/v1/held/{count}", self._all_held),
            web.post("/v1/go-on/{count}", self._go_on),
        ]

    async def _hold(self, http: web.Request) -> web.Response:
        for request_id, number, how in await http.json():
            self._holds[request_id].append((number, how))
        return web.Response()

    async def _all_held(self, http: web.Request) -> web.Response:
        """Answer once so many calls are held: by whom."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._held) >= int(http.match_info["count"]))
            return web.json_response(list(self._held.values()))

    async def _go_on(self, http: web.Request) -> web.Response:
        """Let calls be answered that are held until then, and answer once so many went on."""
        self._went_on = 0
        self._release.set()
        self._release = asyncio.Event()
        async with self._changed:
            await self._changed.wait_for(lambda: self._went_on >= int(http.match_info["count"]))
            self._held.clear()
        return web.Response()

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        messages = body["messages"]
        asked = [number for number, one in enumerate(messages) if one["role"] == "user"][-1]
        request_id = str(messages[asked]["content"])
        shown = [one["content"] for one in messages[asked:] if one["role"] == "tool"]
        step = len(shown)
        told = {"number": 2 * step, "request_id": request_id, "what": "model", "shown": shown}
        call = await self._began(http, **told)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        finished = False
        try:
            await response.prepare(http)
            for word in words_of(request_id, step):
                await asyncio.sleep(self._pace_s)  # noqa: TID251  a model takes its time
                await response.write(_piece(word))
            await self._until_released(http, request_id, 2 * step)
            await response.write(_end(call, request_id, step))
            finished = True
        except ConnectionError:
            return response
        finally:
            self._ended(call, finished=finished)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _tool(self, http: web.Request) -> web.StreamResponse:
        name, asked = http.match_info["name"], await http.json()
        request_id, number = asked["request_id"], 2 * asked["step"] + 1
        call = await self._began(http, **{**asked, "number": number, "what": name})
        # Half of the calls that are never answered have done what they are for.
        at_once = call % 2 == 0
        if at_once:
            self._do(name, asked, call)
        await self._until_released(http, request_id, number)
        if not at_once:
            self._do(name, asked, call)
        self._ended(call, finished=True)
        return web.json_response({"said": self._done.get(asked["key"], f"{name} {call}")})

    def _do(self, name: str, asked: dict[str, Any], call: int) -> None:
        if TOOLS[name] == "read_only" or asked["key"] in self._done:
            return  # under the same key, nothing is done twice
        self._done[asked["key"]] = f"{name} {call}"
        self._write(event="effect", call=call, key=asked["key"], request_id=asked["request_id"])

    async def _became(self, http: web.Request) -> web.Response:
        return web.json_response({"said": self._done.get((await http.json())["key"])})

    async def _until_released(self, http: web.Request, request_id: str, number: int) -> None:
        holds = self._holds[request_id]
        if not holds or holds[0][0] != number:
            return
        _, how = holds.pop(0)
        release = self._release
        async with self._changed:
            self._held[request_id, number] = _worker(http)
            self._changed.notify_all()
        if how == "inside":
            await asyncio.Event().wait()  # its caller is killed
        await release.wait()

    async def _began(self, http: web.Request, **told: Any) -> int:
        call = next(self._calls)
        self._write(event="start", call=call, worker=_worker(http), **told)
        if (told["request_id"], told["number"] - 1) in self._held:
            self._went_on += 1
            async with self._changed:
                self._changed.notify_all()
        return call

    def _ended(self, call: int, *, finished: bool) -> None:
        self._write(event="end", call=call, finished=finished)

    def _write(self, **line: Any) -> None:
        self._log.write(json.dumps({"at_ms": time.time_ns() / 1e6, **line}) + "\n")
        self._log.flush()


def _worker(http: web.Request) -> str:
    return http.headers["Authorization"].removeprefix("Bearer ")


def _piece(text: str) -> bytes:
    delta = {"role": "assistant", "content": text}
    return chunk([{"index": 0, "delta": delta, "finish_reason": None}])


def _end(call: int, request_id: str, step: int) -> bytes:
    called, reason = b"", "stop"
    if step < steps_of(request_id):
        reason = "tool_calls"
        function = {"name": tool_of(request_id, step), "arguments": json.dumps({"step": step})}
        # Whoever asks again is given another id, as by a provider.
        use = {"index": 0, "id": f"call_{call}", "type": "function", "function": function}
        delta = {"role": "assistant", "content": None, "tool_calls": [use]}
        called = chunk([{"index": 0, "delta": delta, "finish_reason": None}])
    ended = chunk([{"index": 0, "delta": {}, "finish_reason": reason}])
    usage = {"prompt_tokens": READ_TOKENS + step, "completion_tokens": WROTE_TOKENS}
    usage["total_tokens"] = sum(usage.values())
    return called + ended + chunk([], usage=usage)


async def _serve(log: Path, pace_s: float) -> None:
    with log.open("w", encoding="utf-8") as lines:
        await listen(StepServer(lines, pace_s).routes())


if __name__ == "__main__":
    asyncio.run(_serve(*arguments()))
