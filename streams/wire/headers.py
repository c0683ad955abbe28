"""Which headers a record keeps when it is written again, and how those it loses are named.

Anybody may put anything into a header: a bearer token, a cookie, a trace's baggage. So an
allow-list decides, by the whole name, and everything else stays on the record that its writer
wrote; a list of what is secret would lack the next name. Kept are, in lower case and in no other
spelling (Kafka's header names are case-sensitive, and the standards write these so):

- `content-type` and `ce_*`: CloudEvents 1.0, Kafka protocol binding
- `traceparent` and `tracestate`: W3C trace context; its `baggage` holds user data, and is not kept
- `millstream-*`: by which a record keeps its identity. Anybody may write these too:
  `records.original_address` says how far they are believed.

The value of a kept header is copied as it is; the trace context as W3C says (`trace.py`): a
malformed one goes no further.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from millstream.streams.wire.trace import NAMES as TRACE_NAMES
from millstream.streams.wire.trace import given_trace

__all__ = [
    "NAMES_MAX",
    "NO_HEADERS",
    "DroppedHeaders",
    "dropped_headers",
    "forwarded_headers",
    "is_kept",
]

_KEPT_NAMES = frozenset({"content-type"}) | TRACE_NAMES
_KEPT_PREFIXES = ("ce_", "millstream-")
_KEPT_REST = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)

NAMES_MAX = 20
"""Most names of dropped headers that a dead letter tells."""

_NAME_CHARS_MAX = 64
_CAMEL = r"[A-Z]{0,2}[a-z]{2,16}(?:[A-Z]{1,2}[a-z]{2,16}){0,3}"
_WORD = rf"(?:{_CAMEL}|[A-Z]{{1,16}}|[a-z])[0-9]{{0,3}}"
# A name that is a token itself (`sk-4f0c…`, a JWT) mixes digits, cases and letters, or has no end.
_WORDS = re.compile(rf"_*{_WORD}(?:[-_.]+{_WORD})*", re.ASCII)
_TOKENS_BEGIN = ("sk-", "pk-", "bearer-", "basic-", "ghp_", "gho_", "xox", "akia", "eyj")


@dataclass(frozen=True, slots=True)
class DroppedHeaders:
    """What a record lost."""

    names: tuple[str, ...] = ()
    """Names of dropped headers, each once, in order: the first `NAMES_MAX` that consist of words.

    A word is up to 16 letters of one case, or up to four of these written as one (`StackTrace`),
    then up to three digits; words are joined by hyphen, underscore or dot, up to 64 characters.
    Any other name, and one that begins as tokens do (`sk-`, `bearer-`), may be a secret itself
    and is counted only.
    """
    count: int = 0
    """How many headers were dropped, those that are not named included."""


NO_HEADERS = DroppedHeaders()
"""Nothing was dropped."""


def is_kept(name: str) -> bool:
    """Tell whether a header of this name is copied."""
    if name in _KEPT_NAMES:
        return True
    for prefix in _KEPT_PREFIXES:
        if name.startswith(prefix):
            return _KEPT_REST.fullmatch(name, len(prefix)) is not None
    return False


def forwarded_headers(
    headers: Iterable[tuple[str, bytes | None]], *, replaced: Collection[str] = ()
) -> list[tuple[str, bytes]]:
    """Give the headers with which a record is written to a topic of requests or commands again.

    Those named in `replaced` are left out: their writer adds new ones, and each move would
    lengthen the record otherwise. aiokafka writes no header without a value, so none is given.
    """
    given = list(headers)
    trace = given_trace(given)
    others = [
        (name, value)
        for name, value in given
        if value is not None and name not in replaced and name not in TRACE_NAMES and is_kept(name)
    ]
    return others if trace is None else [*others, *trace.headers()]


def dropped_headers(headers: Iterable[tuple[str, object]]) -> DroppedHeaders:
    """Give the names and the number of the headers that are not kept."""
    names: dict[str, None] = {}
    count = 0
    for name, _ in headers:
        if is_kept(name):
            continue
        count += 1
        if len(names) < NAMES_MAX and _may_be_named(name):
            names[name] = None
    return DroppedHeaders(tuple(names), count)


def _may_be_named(name: str) -> bool:
    if len(name) > _NAME_CHARS_MAX or name.lower().startswith(_TOKENS_BEGIN):
        return False
    return _WORDS.fullmatch(name) is not None
