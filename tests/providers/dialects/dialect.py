"""What the server needs to know of a dialect, and what short forms of answers have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["TEXT", "Call", "Dialect", "Said", "Turn", "said", "server_sent"]

TEXT: Final = "All is well"


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of a request's conversation: whose, its text, and whether it calls tools."""

    role: str
    text: str
    calls: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool in an answer. `arguments` is text, as most dialects send it."""

    name: str
    arguments: str
    id: str | None

    @property
    def value(self) -> Any:
        """The arguments as JSON, or as text where they are none."""
        try:
            return json.loads(self.arguments)
        except ValueError:
            return self.arguments


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in short form. `finish` and `usage` are in the dialect's own words, or `None`."""

    texts: Sequence[str]
    thoughts: Sequence[str]
    calls: Sequence[Call]
    finish: str | None
    usage: Mapping[str, Any] | None
    then: Sequence[Any] = field(default=())


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of provider is spoken to, and answers.

    `turns` reads a request's conversation, `write` writes an answer in short form out in events,
    given the request's body, `frame` gives an event's bytes, and `end_mark` ends a stream.
    """

    content_type: str
    turns: Callable[[Mapping[str, Any]], Sequence[Turn]]
    write: Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[Any]]
    frame: Callable[[Any], bytes]
    end_mark: bytes = b""


def said(
    answer: Mapping[str, Any],
    tools: Sequence[str],
    *,
    finish: str,
    finish_calls: str,
    usage: Mapping[str, Any],
    as_json: bool = False,
) -> Said:
    """Read an answer in short form, with what the dialect says where the case says nothing.

    Where the body offers the tool `Answer`, as a structured template does, the text is put into a
    call of it, and where it asks for an answer by a schema (`as_json`), into JSON; cut, if the
    answer ends in another way than in order.
    """
    texts = answer.get("says", ())
    calls = [
        Call(each.get("name", "add"), _arguments(each), each.get("id", f"call_{number}"))
        for number, each in enumerate(answer.get("calls", ()))
    ]
    ends = answer.get("finish", finish_calls if calls else finish)
    structured = json.dumps({"answer": "".join(texts), "keywords": []})
    if ends != finish:
        structured = structured[: -len('": []}')]
    if as_json and texts:
        texts = [structured]
    elif "Answer" in tools and not calls and texts:
        texts, calls = (), [Call("Answer", structured, "c_1")]
        ends = finish_calls if ends == finish else ends
    return Said(
        texts=texts,
        thoughts=answer.get("thinks", ()),
        calls=calls,
        finish=ends,
        usage=answer.get("usage", usage),
        then=answer.get("then", ()),
    )


def server_sent(event: Any) -> bytes:
    """Frame an event as `data:`; text is sent as it is, JSON or not."""
    data = event if isinstance(event, str) else json.dumps(event)
    return f"data: {data}\n\n".encode()


def _arguments(call: Mapping[str, Any]) -> str:
    arguments = call.get("arguments", {})
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
