"""Plays what a provider sends: an OpenAI-compatible server that answers by a case's file."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

__all__ = ["Call", "PlayedProvider", "serving"]

USAGE: Final = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
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

    `now_s` is the clock by which `for_s` is measured, in seconds. `pieces_taken` counts, call by
    call, the events of a stream that could still be sent.
    """

    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    event_common: Mapping[str, Any]
    now_s: Callable[[], float]
    calls: list[Call] = field(default_factory=list)
    pieces_taken: list[int] = field(default_factory=list)
    _turns: Counter[str] = field(default_factory=Counter)
    _refusing_since_s: dict[str, float] = field(default_factory=dict)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer a `POST` of chat completions, or of responses by events as the case has them."""
        body = await request.json()
        asked = self._input_of(body)
        self.calls.append(Call(asked, self.now_s(), body))
        number = len(self.pieces_taken)
        self.pieces_taken.append(0)
        answer = _refusal(self._next(asked), body)
        headers = answer.get("headers", {})
        status = answer.get("status", 200)
        if "raw" in answer:
            content_type = answer.get("content_type", "text/html")
            raw = answer["raw"]
            return web.Response(text=raw, status=status, headers=headers, content_type=content_type)
        if "json" in answer:
            return web.json_response(answer["json"], status=status, headers=headers)
        streamed = web.StreamResponse(status=status, headers=headers)
        streamed.content_type = "text/event-stream"
        await streamed.prepare(request)
        try:
            for event in _events(answer, body):
                await streamed.write(self._line(event))
                self.pieces_taken[number] += 1
                # A real one takes its time: without a turn in between, all is sent at once.
                for _ in range(TURNS_PER_EVENT):
                    await asyncio.sleep(0)  # noqa: TID251  a turn, not a duration
        except ConnectionError:
            return streamed
        await self._end(answer, request, streamed)
        return streamed

    async def _end(
        self, answer: Mapping[str, Any], request: web.Request, streamed: web.StreamResponse
    ) -> None:
        match answer.get("end", "done"):
            case "done":
                await streamed.write(b"data: [DONE]\n\n")
            case "reset" if request.transport is not None:
                request.transport.abort()

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

    def _line(self, event: Mapping[str, Any] | str) -> bytes:
        if isinstance(event, str):
            return f"data: {event}\n\n".encode()
        common = self.event_common if "choices" in event else {}
        return f"data: {json.dumps({**common, **event})}\n\n".encode()

    def _input_of(self, body: Mapping[str, Any]) -> str:
        said = [_text(each) for each in _messages(body) if each.get("role") == "user"]
        return next(text for text in reversed(said) if text in self.answers)


def _messages(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    # OpenAI's responses call them `input`.
    messages: Sequence[Mapping[str, Any]] = body["messages" if "messages" in body else "input"]
    return messages


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _refusal(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the refusal that an answer's condition on the body calls for, else the answer."""
    messages = _messages(body)
    chars_max = answer.get("refuse_if_chars_above")
    if chars_max is not None and sum(len(_text(each)) for each in messages) > chars_max:
        return answer["refusal"]  # type: ignore[no-any-return]
    if "refuse_if_asked_for_usage" in answer and "stream_options" in body:
        return answer["refuse_if_asked_for_usage"]  # type: ignore[no-any-return]
    refusal = answer.get("refuse_if_empty_assistant")
    empty = any(
        each.get("role") == "assistant" and not _text(each) and not each.get("tool_calls")
        for each in messages
    )
    return refusal if refusal is not None and empty else answer


def _events(answer: Mapping[str, Any], body: Mapping[str, Any]) -> list[Any]:
    events = answer["sse"] if "sse" in answer else _said(answer, body)
    asked_for_usage = (body.get("stream_options") or {}).get("include_usage") is True
    if "usage_only_if_asked" in answer and not asked_for_usage:
        return [each for each in events if not (isinstance(each, dict) and "usage" in each)]
    return list(events)


def _said(answer: Mapping[str, Any], body: Mapping[str, Any]) -> list[Any]:
    """Write out an answer in short form: `says` its pieces of text, `finish`, `usage`.

    Where the body asks for a structured answer, by the tool `Answer` or by `response_format`, the
    text is that answer's, in a call of the tool or as JSON.
    """
    if "response_format" in body:
        text = json.dumps({"answer": "".join(answer["says"]), "keywords": []})
        whole = answer.get("finish", "stop") == "stop"
        answer = {**answer, "says": [text if whole else text[: -len('": []}')]]}
    offered = {tool["function"]["name"] for tool in body.get("tools", ())}
    deltas = [{"role": "assistant", "content": text} for text in answer["says"]]
    finish = answer.get("finish", "stop")
    if "Answer" in offered:
        arguments = json.dumps({"answer": "".join(answer["says"]), "keywords": []})
        if finish != "stop":
            arguments = arguments[: -len('": []}')]
        function = {"name": "Answer", "arguments": arguments}
        call = {"index": 0, "id": "c_1", "type": "function", "function": function}
        deltas = [{"role": "assistant", "content": None, "tool_calls": [call]}]
        finish = "tool_calls" if finish == "stop" else finish
    choices = [{"index": 0, "delta": each, "finish_reason": None} for each in deltas]
    if finish is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    usage = answer.get("usage", USAGE)
    events: list[Any] = [{"choices": [each]} for each in choices]
    return [*events, *answer.get("then", ()), *([{"choices": [], "usage": usage}] if usage else [])]


@asynccontextmanager
async def serving(provider: PlayedProvider) -> AsyncIterator[str]:
    """Serve on loopback; gives the base URL that a user would set."""
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", provider.complete)
    app.router.add_post("/v1/responses", provider.complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
