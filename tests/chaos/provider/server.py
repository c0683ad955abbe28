"""A provider that fails as scripts say: `python -m tests.chaos.provider.server LOG [PACE_S]`.

It speaks OpenAI's chat completions on 127.0.0.1, prints `{"port": …}` once it listens, and logs
each call as `tests.chaos.model_server` does. The line of a call's end says besides what the call
used (`read`, `wrote` tokens), whether the provider `told` all of that as it was, and when it may be
asked again (`not_before_ms`, `null` if it did not say).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, TextIO

from aiohttp import web

from tests.chaos.model_server import main
from tests.chaos.provider.script import Script, answer_of

BYTES_PER_TOKEN = 4
CALL_TOKENS = 9
_MORE_THAN_ANY_LIMIT = 3_000
_HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"
_EVENTS = {"Content-Type": "text/event-stream"}


@dataclass
class Call:
    """A model call under way, and what it used by now."""

    number: int
    request_id: str
    body: dict[str, Any]
    http: web.Request
    pace_s: float
    read: int = 0
    wrote: int = 0
    told: bool = True
    finished: bool = False
    ended_ms: float | None = None
    not_before_ms: float | None = None
    stream: web.StreamResponse = field(default_factory=lambda: web.StreamResponse(headers=_EVENTS))

    async def begin(self) -> None:
        """Begin a stream: from here on all that was sent counts."""
        self.read = len(json.dumps(self.body["messages"])) // BYTES_PER_TOKEN // 2 + 3
        await self.stream.prepare(self.http)

    async def say(self, *choices: dict[str, Any], **more: Any) -> None:
        """Send one event."""
        chunk = {"id": f"c{self.number}", "object": "chat.completion.chunk", "created": 0,
                 "model": "counted", "choices": list(choices)}  # fmt: skip
        await self.raw(f"data: {json.dumps({**chunk, **more})}\n\n")

    async def raw(self, text: str) -> None:
        """Send what stands here."""
        await self.stream.write(text.encode())

    async def write(self, text: str, **more: Any) -> None:
        """Write a piece of the answer: one token, and past the limit none that may be charged."""
        await asyncio.sleep(self.pace_s)  # noqa: TID251  a model takes its time
        self.wrote = min(self.wrote + 1, self.limit)
        await self.say(_delta({"role": "assistant", "content": text}), **more)

    async def stop(self, reason: str, usage: Any = None) -> None:
        """Say how the answer ended, and what is told of its usage; `None`: nothing is."""
        await self.say({"index": 0, "delta": {}, "finish_reason": reason})
        if usage is not None:
            await self.say(usage=usage)
        self.finished = True

    @property
    def limit(self) -> int:
        """The most tokens that the answer is to have."""
        asked: int = self.body.get("max_tokens") or self.body["max_completion_tokens"]
        return asked

    @property
    def usage(self) -> dict[str, int]:
        """What was used."""
        return {
            "prompt_tokens": self.read,
            "completion_tokens": self.wrote,
            "total_tokens": self.read + self.wrote,
        }

    @property
    def words(self) -> list[str]:
        """The answer's pieces."""
        first, *rest = answer_of(self.request_id).split(" ")
        return [first, *(f" {word}" for word in rest)]


def _now_ms() -> float:
    return time.time_ns() / 1e6


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


class Provider:
    """Plays scripts and writes its log, line by line."""

    def __init__(self, log: TextIO, pace_s: float) -> None:
        self._log = log
        self._pace_s = pace_s
        self._numbers: Iterator[int] = itertools.count()
        self._calls: Counter[str] = Counter()

    async def complete(self, http: web.Request) -> web.StreamResponse:
        """Answer one call by its request's script."""
        try:
            body = await http.json()
        except (ConnectionError, ValueError):
            return web.Response()  # the worker is gone before it asked
        asked = [one["content"] for one in body["messages"] if one["role"] == "user"]
        # A model that is asked again for a call that did not come is asked by the worker's words.
        name = next(each for each in reversed(asked) if each.startswith("p") and "." in each)
        step = Script.of(name).step(self._calls[name])
        self._calls[name] += 1
        call = Call(next(self._numbers), name, body, http, self._pace_s)
        worker = http.headers["Authorization"].removeprefix("Bearer ")
        self._write(call=call.number, event="start", worker=worker, request_id=name, step=step)
        try:
            return await self._play(step, call)
        except ConnectionError:
            return call.stream  # the worker has dropped the run
        finally:
            self._write(
                call=call.number, event="end", at_ms=call.ended_ms or _now_ms(),
                finished=call.finished, read=call.read, wrote=call.wrote, told=call.told,
                not_before_ms=call.not_before_ms,
            )  # fmt: skip

    async def _play(self, step: str, call: Call) -> web.StreamResponse:
        if step in _REFUSALS:
            return _REFUSALS[step](call)
        await call.begin()
        if step in _BREAKS:
            call.told = False
            return await _broken(step, call)
        if step in _TOOL_CALLS:
            await _call_tool(call, step)
        elif step == "announced":
            await call.stop("tool_calls", call.usage)
        elif step == "no-text":
            await call.stop("stop", call.usage)
        elif call.body.get("tool_choice") in {"required", "any"}:
            await _fill_form(call)
        else:
            await _answer(step, call)
        await call.raw("data: [DONE]\n\n")
        return call.stream

    def _write(self, **line: Any) -> None:
        self._log.write(json.dumps({"at_ms": _now_ms(), **line}) + "\n")
        self._log.flush()


def _refused(
    status: int, error: Any, headers: Callable[[Call], dict[str, str]] | None = None
) -> Any:
    def refuse(call: Call) -> web.StreamResponse:
        told = {} if headers is None else headers(call)
        return web.json_response({"error": error}, status=status, headers=told)

    return refuse


def _page(status: int, text: str, content_type: str = "text/html") -> Any:
    def page(call: Call) -> web.StreamResponse:
        call.told = status != 200
        return web.Response(text=text, status=status, content_type=content_type)

    return page


def _later(seconds: float, **headers: str) -> Callable[[Call], dict[str, str]]:
    def say(call: Call) -> dict[str, str]:
        now_s = int(time.time())
        if "date" in headers:
            # Of whole seconds, as the answer's own date is.
            call.not_before_ms = (now_s + seconds) * 1000
            told = formatdate(now_s + seconds, usegmt=True)
            return {"Retry-After": told, "Date": formatdate(now_s, usegmt=True)}
        call.not_before_ms = _now_ms() + seconds * 1000
        return headers

    return say


_BUSY = {"type": "overloaded_error", "message": "come back later"}
_RATE = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "slow down"}
_REFUSALS: dict[str, Callable[[Call], web.StreamResponse]] = {
    "rate-limit-seconds": _refused(429, _RATE, _later(2, **{"Retry-After": "2"})),
    "rate-limit-date": _refused(429, _RATE, _later(3, date="")),
    "rate-limit-ms": _refused(429, _RATE, _later(0.8, **{"retry-after-ms": "800"})),
    "status-500": _refused(500, {"message": "oh"}),
    "status-503": _refused(503, _BUSY),
    "status-529": _refused(529, _BUSY),
    "html-502": _page(502, _HTML),
    "html-200": _page(200, _HTML),
    "empty-body": _page(200, "", "text/event-stream"),
    "quota": _refused(429, {"code": "insufficient_quota", "message": "you have used it up"}),
    "refused": _refused(400, {"code": "content_filter", "message": "not that"}),
    "key": _refused(401, {"code": "invalid_api_key", "message": "who are you"}),
    "bad-request": _refused(400, {"type": "invalid_request_error", "message": "what"}),
    "too-long": _refused(400, {"code": "context_length_exceeded", "message": "too long"}),
}

_BREAKS = frozenset(
    {"eof", "reset", "stall", "half-json", "html-in-stream"}
    | {"overloaded-at-once", "overloaded-in-midst"}
)


async def _broken(step: str, call: Call) -> web.StreamResponse:
    error = f"data: {json.dumps({'error': {'code': 'overloaded', 'message': 'later'}})}\n\n"
    if step == "overloaded-at-once":
        call.read = 0  # refused before anything was read
        call.told = True
        await call.raw(error)
        return call.stream
    for word in call.words[:3]:
        await call.write(word)
    match step:
        case "reset" if call.http.transport is not None:
            call.http.transport.abort()
        case "stall":
            gone = call.http.transport
            while gone is not None and not gone.is_closing():  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.05)  # noqa: TID251
        case "half-json":
            await call.raw('data: {"id": "c", "choices": [{"ind')
        case "html-in-stream":
            await call.raw(f"data: {_HTML}\n\n")
        case "overloaded-in-midst":
            await call.raw(error)
    return call.stream


async def _write_on(call: Call) -> None:
    """Write past the limit."""
    call.told = False
    for _ in range(_MORE_THAN_ANY_LIMIT):
        await call.write("w ")
        if call.wrote == call.limit and not call.finished:
            # Here its caller has all of it; that it is cut off shows later.
            call.finished, call.ended_ms = True, _now_ms()


async def _answer(step: str, call: Call) -> None:
    if step == "endless":
        await _write_on(call)
    before = 0
    for word in call.words:
        if step == "slow":
            await asyncio.sleep(0.1)  # noqa: TID251  a slow one
        more: dict[str, Any] = {}
        if step == "usage-running":
            more["usage"] = {**call.usage, "completion_tokens": call.wrote + 1}
        if step == "usage-deltas":
            more["usage"] = {"prompt_tokens": 0 if before else call.read, "completion_tokens": 1}
            before = call.wrote + 1
        await call.write(word, **more)
    usage: Any = call.usage
    lies: dict[str, Any] = {
        "usage-none": None,
        "usage-zero": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "usage-null": dict.fromkeys(usage),
        "usage-negative": {**usage, "completion_tokens": -call.wrote},
        "usage-huge": {**usage, "completion_tokens": 2**62},
        "usage-fraction": {**usage, "prompt_tokens": call.read + 0.5},
    }
    if step in lies:
        call.told, usage = False, lies[step]
    if step == "usage-deltas":
        usage = None
    if step == "usage-twice":
        await call.say(usage=usage)
    await call.stop("stop", usage)


_TOOL_CALLS = {
    "call-note": "note",
    "call-both": "raises",
    "call-raises": "raises",
    "call-huge": "huge",
    "call-groups": "groups",
    "call-spins": "spins",
    "call-interrupts": "interrupts",
    "call-exits": "exits",
    "call-cancels": "cancels",
    "call-blocks": "blocks",
    "call-hangs": "hangs",
    "call-pays": "pays",
    "unknown-tool": "nobody_offered_this",
    "no-json": "note",
    "cut-call": "note",
    "same-id": "note",
}


async def _call_tool(call: Call, step: str) -> None:
    args = json.dumps({"order": call.request_id})
    pieces = {
        "no-json": ["{'order': ", "'1'}"],
        "cut-call": ['{"order": "', call.request_id[:4]],
    }.get(step, [args[:4], args[4:]])
    names = [_TOOL_CALLS[step], *{"same-id": ["note"], "call-both": ["note"]}.get(step, [])]
    for index, name in enumerate(names):
        one_id = f"call_{call.number}" if step == "same-id" else f"call_{call.number}_{index}"
        one = {"index": index, "id": one_id, "type": "function"}
        named = {**one, "function": {"name": name, "arguments": pieces[0]}}
        await call.say(_delta({"role": "assistant", "content": None, "tool_calls": [named]}))
        more = {"index": index, "function": {"arguments": pieces[1]}}
        await call.say(_delta({"tool_calls": [more]}))
    call.wrote += CALL_TOKENS
    await call.stop("length" if step == "cut-call" else "tool_calls", call.usage)


async def _fill_form(call: Call) -> None:
    """Give a structured answer, which LangChain asks for as the call of a tool."""
    args = json.dumps({"answer": answer_of(call.request_id)[:200], "keywords": ["a"]})
    name = call.body["tools"][0]["function"]["name"]
    one = {"index": 0, "id": f"call_{call.number}", "type": "function"}
    use = {**one, "function": {"name": name, "arguments": args}}
    await call.say(_delta({"role": "assistant", "content": None, "tool_calls": [use]}))
    call.wrote += CALL_TOKENS
    await call.stop("tool_calls", call.usage)


if __name__ == "__main__":
    main(Provider)
