"""Plays what a provider sends: a server that speaks five dialects and answers by a case's file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from aiohttp import web

from tests.providers.dialects import DIALECTS, Dialect

__all__ = ["Call", "PlayedProvider", "serving"]

TURNS_PER_EVENT: Final = 3


@dataclass(frozen=True, slots=True)
class Call:
    """A request that the server received: for which input, when (by `now_s`), and its body."""

    input: str
    at_s: float
    body: dict[str, Any]


@dataclass
class PlayedProvider:
    """Answers the calls for each input in the order of the case's file.

    `event_common` is added to events that have `choices`. `now_s` is the clock by which `for_s` is
    measured, in seconds. `pieces_taken` counts, call by call, the events of a stream that could
    still be sent.
    """

    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    event_common: Mapping[str, Any]
    now_s: Callable[[], float]
    calls: list[Call] = field(default_factory=list)
    pieces_taken: list[int] = field(default_factory=list)
    _turns: Counter[str] = field(default_factory=Counter)
    _refusing_since_s: dict[str, float] = field(default_factory=dict)

    async def answer(self, dialect: Dialect, request: web.Request) -> web.StreamResponse:
        """Answer a `POST` in this dialect, by events or as the case has it."""
        body = await request.json()
        asked = self._input_of(dialect, body)
        self.calls.append(Call(asked, self.now_s(), body))
        number = len(self.pieces_taken)
        self.pieces_taken.append(0)
        answer = _refusal(self._next(asked), dialect, body)
        headers = answer.get("headers", {})
        status = answer.get("status", 200)
        if "raw" in answer:
            content_type = answer.get("content_type", "text/html")
            raw = answer["raw"]
            return web.Response(text=raw, status=status, headers=headers, content_type=content_type)
        if "json" in answer:
            return web.json_response(answer["json"], status=status, headers=headers)
        streamed = web.StreamResponse(status=status, headers=headers)
        streamed.content_type = dialect.content_type
        await streamed.prepare(request)
        try:
            for event in dialect.write(answer, body):
                if isinstance(event, dict) and "choices" in event:
                    event = {**self.event_common, **event}  # noqa: PLW2901
                await streamed.write(dialect.frame(event))
                self.pieces_taken[number] += 1
                # A real one takes its time: without a turn in between, all is sent at once.
                for _ in range(TURNS_PER_EVENT):
                    await asyncio.sleep(0)  # noqa: TID251  a turn, not a duration
            match answer.get("end", "done"):
                case "done":
                    await streamed.write(dialect.end_mark)
                case "reset" if request.transport is not None:
                    request.transport.abort()
        except ConnectionError:
            pass  # the client has read enough
        return streamed

    def _next(self, asked: str) -> Mapping[str, Any]:
        answers = self.answers[asked]
        answer = answers[min(self._turns[asked], len(answers) - 1)]
        if (for_s := answer.get("for_s")) is not None:
            # Refuses for so long, whatever the number of calls.
            since_s = self._refusing_since_s.setdefault(asked, self.now_s())
            if self.now_s() - since_s < for_s:
                return answer
            self._turns[asked] += 1
            return self._next(asked)
        self._turns[asked] += 1
        return answer

    def _input_of(self, dialect: Dialect, body: Mapping[str, Any]) -> str:
        asked = [turn.text for turn in dialect.turns(body) if turn.role == "user"]
        return next(text for text in reversed(asked) if text in self.answers)


def _refusal(
    answer: Mapping[str, Any], dialect: Dialect, body: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Give the refusal that an answer's condition on the body calls for, else the answer."""
    turns = dialect.turns(body)
    chars_max = answer.get("refuse_if_chars_above")
    if chars_max is not None and sum(len(turn.text) for turn in turns) > chars_max:
        return answer["refusal"]  # type: ignore[no-any-return]
    for name, refusal in answer.get("refuse_if_named", {}).items():
        if name in body:
            return refusal  # type: ignore[no-any-return]
    if "refuse_if_asked_for_usage" in answer and "stream_options" in body:
        return answer["refuse_if_asked_for_usage"]  # type: ignore[no-any-return]
    if "refuse_if_empty_assistant" in answer and any(
        turn.role == "assistant" and not turn.text and not turn.calls for turn in turns
    ):
        return answer["refuse_if_empty_assistant"]  # type: ignore[no-any-return]
    if "refuse_if_call_without_answer" in answer and any(
        turn.calls and after.role != "tool" for turn, after in pairwise(turns)
    ):
        return answer["refuse_if_call_without_answer"]  # type: ignore[no-any-return]
    return answer


def _speaking(
    provider: PlayedProvider, dialect: Dialect
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await provider.answer(dialect, request)

    return answer


@asynccontextmanager
async def serving(provider: PlayedProvider) -> AsyncIterator[str]:
    """Serve on loopback, all dialects under one base URL; gives the URL that a user would set."""
    app = web.Application(client_max_size=16 * 1024 * 1024)
    for path, dialect in DIALECTS.items():
        app.router.add_post(f"/v1{path}", _speaking(provider, dialect))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
