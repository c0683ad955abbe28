"""A model as a process of its own, spoken to as OpenAI's, which logs every call: who, what, when.

`python -m tests.chaos.model_server LOG [PACE_S]` prints `{"port": …}` once it listens on
127.0.0.1, and writes a word every PACE_S seconds. The answer to a request tells what the model was
shown, so that its text proves the session's memory: `<id> follows <id of the message before, or
nothing>` and some words. A request that ends `tools: 5` is answered only once a tool was called
five times. A caller is told by its key.

Each call leaves two lines of JSON in LOG: `{"call", "event": "start", "at_ms", "worker",
"request_id"}` and `{"call", "event": "end", "at_ms", "finished"}`; `finished` says that the whole
answer was written. That line comes before the end of the stream: no caller acts on it earlier.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from aiohttp import web

WORDS = tuple(f"w{number}" for number in range(5))
NOTHING = "nothing"
TOOL_PACE_S = 0.3
PACE_S = 0.02


def expected_answer(request_id: str, follows: str) -> str:
    """Give the text that the model writes for a request behind another one of its session."""
    return " ".join((request_id, "follows", follows, *WORDS))


class ModelServer:
    """Streams answers and writes its log, line by line."""

    def __init__(self, log: TextIO, pace_s: float) -> None:
        self._log = log
        self._pace_s = pace_s
        self._calls: Iterator[int] = itertools.count()

    async def complete(self, http: web.Request) -> web.StreamResponse:
        """Answer one call, word by word."""
        try:
            body = await http.json()
        except ConnectionError:
            return web.Response()  # the worker is gone before it asked
        asked = [one["content"] for one in body["messages"] if one["role"] == "user"]
        call = next(self._calls)
        worker = http.headers["Authorization"].removeprefix("Bearer ")
        self._write(call=call, event="start", worker=worker, request_id=asked[-1])
        finished = False
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(http)
            if _tool_calls_left(body["messages"]):
                await asyncio.sleep(TOOL_PACE_S)  # noqa: TID251  a model takes its time
                await response.write(_tool_call(call))
            else:
                for number, word in enumerate(self.words(asked)):
                    await asyncio.sleep(self._pace_s)  # noqa: TID251  a model takes its time
                    await response.write(_piece(word if number == 0 else f" {word}"))
                await response.write(_last(len(asked)))
            finished = True
        except ConnectionError:
            return response  # the worker was killed, or dropped the run
        finally:
            self._write(call=call, event="end", finished=finished)
        await response.write(b"data: [DONE]\n\n")
        return response

    def words(self, asked: Sequence[str]) -> Sequence[str]:
        """Give the words of the answer to the last of these messages."""
        return expected_answer(asked[-1], asked[-2] if len(asked) > 1 else NOTHING).split(" ")

    def _write(self, **line: Any) -> None:
        self._log.write(json.dumps({"at_ms": time.time_ns() / 1e6, **line}) + "\n")
        self._log.flush()


def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    """Give a piece of an answer, as a stream of events has it."""
    piece = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "counted"}
    return f"data: {json.dumps({**piece, 'choices': choices, **more})}\n\n".encode()


def _piece(text: str) -> bytes:
    delta = {"role": "assistant", "content": text}
    return chunk([{"index": 0, "delta": delta, "finish_reason": None}])


def _tool_calls_left(messages: list[dict[str, Any]]) -> bool:
    asked = [number for number, one in enumerate(messages) if one["role"] == "user"][-1]
    words = str(messages[asked]["content"]).rpartition("tools: ")[2]
    made = sum(one["role"] == "tool" for one in messages[asked:])
    return words.isdecimal() and made < int(words)


def _tool_call(call: int) -> bytes:
    function = {"name": "calculator", "arguments": json.dumps({"expression": f"{call} + 1"})}
    use = {"index": 0, "id": f"call_{call}", "type": "function", "function": function}
    delta = {"role": "assistant", "content": None, "tool_calls": [use]}
    called = chunk([{"index": 0, "delta": delta, "finish_reason": None}])
    ended = chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return called + ended + chunk([], usage=usage)


def _last(messages: int) -> bytes:
    written = 3 + len(WORDS)
    usage = {"prompt_tokens": messages, "completion_tokens": written}
    stop = chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    return stop + chunk([], usage={**usage, "total_tokens": messages + written})


class Model(Protocol):
    """Answers calls."""

    async def complete(self, http: web.Request) -> web.StreamResponse:
        """Answer one call."""


async def serve(model: Callable[[TextIO, float], Model], log: Path, pace_s: float) -> None:
    """Serve a model, made from its log and its pace, until ended by a signal."""
    with log.open("w", encoding="utf-8") as lines:
        await listen([web.post("/v1/chat/completions", model(lines, pace_s).complete)])


async def listen(routes: Iterable[web.RouteDef]) -> None:
    """Listen on 127.0.0.1 until ended by a signal; tells on standard output on which port."""
    app = web.Application(client_max_size=2**24)
    app.router.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def arguments() -> tuple[Path, float]:
    """Give what the arguments of this process say: LOG [PACE_S]."""
    return Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else PACE_S


def main(model: Callable[[TextIO, float], Model]) -> None:
    """Serve a model as the arguments of this process say."""
    asyncio.run(serve(model, *arguments()))


if __name__ == "__main__":
    main(ModelServer)
