"""What a model is asked, as a digest: a recorded answer counts where the same is asked again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from operator import attrgetter, is_
from typing import Any, Final, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage

from millstream.agents.sessions.recorded.messages import MessageWriter
from millstream.agents.sessions.recorded.values import LEFT_OUT
from millstream.schemas.lane_events import AnswerRepair

__all__ = ["AskedDigest", "RunBase"]

_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBase:
    """What all model calls of a run have in common, in each of its attempts.

    Attributes:
        template: The template's name.
        version: Its version, `None`: it has none.
        system: The system prompt with its variables filled in, before a middleware adds to it.
        schema: What the answer has to fit.
        base_checkpoint_id: The checkpoint that the run goes on from, `None`: the session's first.
        forget: Whether the run goes on without the session's earlier turns.
    """

    template: str
    version: str | None
    system: SystemMessage | str | None = None
    schema: Mapping[str, Any] | None = None
    base_checkpoint_id: str | None = None
    forget: bool = False


class _Link(NamedTuple):
    message: BaseMessage
    content: Any
    calls: Any
    own: bytes
    chained: bytes


_CONTENT: Final = attrgetter("content")


class AskedDigest:
    """Digests of the questions of one run, which grow message by message.

    A message is digested once, however often it is asked with: known by its identity, and by that
    of its content. What it holds is not to be changed in place, and its calls only before it is
    asked with.
    """

    def __init__(self, base: RunBase) -> None:
        self._run = base
        self._chain: list[_Link] = []
        # Of the chain's messages, once more.
        self._messages: list[BaseMessage] = []
        self._contents: list[Any] = []

    @cached_property
    def _base(self) -> bytes:
        # Not before it is asked for: most runs are a single call, and never are.
        base = self._run
        system = base.system.content if isinstance(base.system, SystemMessage) else base.system
        return _digest(
            b"base",
            base.template,
            base.version,
            system,
            base.schema,
            base.base_checkpoint_id,
            base.forget,
        )

    def of(self, turn: Sequence[BaseMessage], repair: AnswerRepair | None = None) -> str:
        """Digest a question, as 32 hexadecimal digits.

        `turn` is what the run has said so far, from the request's question on; `repair` is told
        behind it. Ids of messages count nothing, as each attempt makes its own; those of calls do.
        """
        chain = self._chain
        same = self._same(turn)
        if same < len(turn):
            known = {id(link.message): link for link in chain[same:]}
            self._cut(same)
            chained = chain[-1].chained if chain else self._base
            for message in turn[same:]:
                was = known.get(id(message))
                own = was.own if was and _is_of(was, message) else _digest_of(message)
                chained = _hash(b"next", chained, own)
                chain.append(_Link(message, message.content, _calls(message), own, chained))
                self._messages.append(message)
                self._contents.append(message.content)
        else:
            self._cut(same)
            chained = chain[-1].chained if chain else self._base
        told = b"" if repair is None else _digest(b"repair", repair.answer, repair.problem)
        return _hash(b"asked", chained, told).hex()

    def _cut(self, count: int) -> None:
        del self._chain[count:], self._messages[count:], self._contents[count:]

    def _same(self, turn: Sequence[BaseMessage]) -> int:
        """Count the messages at the beginning that are those of the question before."""
        chain = self._chain
        # Nearly always all of them, so that no line of Python is run for each.
        count = len(chain)
        if (
            0 < count <= len(turn)
            and all(map(is_, self._messages, turn))
            and all(map(is_, self._contents, map(_CONTENT, turn)))
        ):
            return count
        same = 0
        for link, message in zip(chain, turn, strict=False):
            if not _is_of(link, message):
                break
            same += 1
        return same


def _is_of(link: _Link, message: BaseMessage) -> bool:
    return (
        link.message is message
        and link.content is message.content
        and link.calls is _calls(message)
    )


def _calls(message: BaseMessage) -> Any:
    held = message.__dict__
    return held.get("tool_calls", held.get("tool_call_id"))


def _digest_of(message: BaseMessage) -> bytes:
    calls = _calls(message)
    if isinstance(message, AIMessage):
        calls = [(one["name"], one["args"], one["id"]) for one in message.tool_calls]
    return _digest(b"message", message.type, message.content, calls)


def _digest(what: bytes, *parts: Any) -> bytes:
    """Digest values by what they are as JSON, in whatever order their keys stand."""
    writer = MessageWriter()
    written = [writer.value(one, "", shown=True) for one in parts]
    text = json.dumps(
        [None if one is LEFT_OUT else one for one in written],
        sort_keys=True,
        separators=(",", ":"),
    )
    return _hash(what, text.encode())


def _hash(what: bytes, *parts: bytes) -> bytes:
    """Hash what stands alone, or behind a digest: so the parts need no mark between them."""
    hashed = blake2b(digest_size=_DIGEST_BYTES, person=what)
    for part in parts:
        hashed.update(part)
    return hashed.digest()
