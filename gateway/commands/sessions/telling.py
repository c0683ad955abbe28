"""Sessions and what became of them, as people and programs are told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from millstream.agents.sessions.manager import (
    SessionCheckpoint,
    SessionFilter,
    SessionInfo,
    SessionStats,
)
from millstream.gateway.console.cleaning import harmless, in_line
from millstream.gateway.console.rendering import money
from millstream.gateway.console.terminal import print_data, print_table
from millstream.gateway.console.time_parsing import time_text
from millstream.schemas.sessions.commands import SessionTtl

if TYPE_CHECKING:
    from millstream.agents.sessions.conversation import ConversationMessage
    from millstream.streams.sessions.outcomes import SessionOutcome

__all__ = [
    "due_text",
    "facts",
    "none_text",
    "print_checkpoints",
    "print_conversation",
    "print_pairs",
    "print_sessions",
    "session_pairs",
    "stats_pairs",
]

_NONE = "-"
_INDENT = "  "


def facts(value: Any) -> dict[str, Any]:
    """Give a value of a manager as a JSON object; what it does not have is left out."""
    told: dict[str, Any] = to_jsonable_python(value, exclude_none=True)
    return {name: one for name, one in told.items() if one is not None}


def print_sessions(sessions: Sequence[SessionInfo]) -> None:
    """Print a table with a line for each session."""
    rows = [
        (
            one.session_id,
            one.state,
            str(one.turn),
            time_text(one.updated_at_ms),
            one.template or _NONE,
            money(one.cost_micros),
            _pairs_text(one.metadata),
        )
        for one in sessions
    ]
    print_table(("session", "state", "turns", "used", "template", "cost", "metadata"), rows)


def none_text(user: str, wanted: SessionFilter, others: Sequence[SessionInfo]) -> str:
    """Say that none of a user's sessions is wanted; `others` are the newest that there are."""
    if not others:
        return f"user {user} has no sessions"
    theirs = sorted({one.template for one in others if one.template is not None})
    if wanted.template is None or wanted.template in theirs:
        return f"user {user} has sessions, and no such ones: each option leaves some out"
    told = f"of user {user} no session is of the template {wanted.template!r}"
    if not theirs:
        return f"{told}, nor of another: a session has one from its first run on"
    return f"{told}; the newest are of {', '.join(theirs)}"


def print_checkpoints(found: Sequence[SessionCheckpoint]) -> None:
    """Print a table with a line for each checkpoint."""
    rows = [
        (
            str(one.turn),
            _NONE if one.at_ms is None else time_text(one.at_ms),
            _NONE if one.checkpoint_bytes is None else f"{one.checkpoint_bytes:,}",
            one.request_id or _NONE,
            ", ".join(one.names) or _NONE,
            "newest" if one.is_head else "left" if one.left else "",
        )
        for one in found
    ]
    print_table(("turn", "when", "bytes", "request", "names", ""), rows)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print a line for each name and what it has."""
    width = max(len(name) for name, _ in pairs)
    for name, told in pairs:
        print_data(f"{name:<{width}}  {in_line(told)}")


def session_pairs(one: SessionInfo) -> list[tuple[str, str]]:
    """Give what is known of a session, by names."""
    return [
        ("session", one.session_id),
        ("user", one.user_id),
        ("tenant", one.tenant),
        ("state", one.state + (f" since {time_text(one.since_ms)}" if one.since_ms else "")),
        ("turns", str(one.turn)),
        ("created", _time(one.created_at_ms)),
        ("used", _time(one.updated_at_ms)),
        ("lives", ttl_text(one.ttl)),
        ("expires", _time(one.expires_at_ms)),
        ("template", one.template or _NONE),
        # Often another request: one that was rejected makes no turn.
        ("request", f"{one.last_request_id}, of turn {one.turn}" if one.last_request_id else _NONE),
        ("ended", _ended_text(one)),
        ("bytes", _NONE if one.checkpoint_bytes is None else f"{one.checkpoint_bytes:,}"),
        ("cost", money(one.cost_micros)),
        ("metadata", _pairs_text(one.metadata)),
    ]


def stats_pairs(stats: SessionStats) -> list[tuple[str, str]]:
    """Give sums, by names."""
    return [
        ("open", f"{stats.open:,}"),
        ("closed", f"{stats.closed:,}"),
        ("expired", f"{stats.expired:,}"),
        ("turns", f"{stats.turns:,}"),
        ("bytes", f"{stats.checkpoint_bytes:,}"),
        ("cost", money(stats.cost_micros)),
        ("oldest", _time(stats.oldest_at_ms)),
        ("newest", _time(stats.newest_at_ms)),
    ]


def print_conversation(messages: Sequence[ConversationMessage]) -> None:
    """Print who said what, each message's text further in: no text can look like another's name."""
    for one in messages:
        print_data(_said_by(one))
        for line in harmless(one.text).splitlines():
            print_data(_INDENT + line)
        for label in one.media:
            print_data(_INDENT + in_line(label))
        for call in one.calls:
            print_data(f"{_INDENT}→ {in_line(call.name)}({_arguments(call.arguments)})")


def ttl_text(ttl: SessionTtl) -> str:
    """Say how long a session lives, in the units that it is given in."""
    told = []
    if ttl.idle_s is not None:
        told.append(f"{_span_text(ttl.idle_s)} without being used")
    if ttl.total_s is not None:
        told.append(f"{_span_text(ttl.total_s)} in all")
    return ", ".join(told) or "without a limit"


def due_text(outcome: SessionOutcome) -> str:
    """Say, behind how long it lives, when that is over; "" where it never is."""
    if outcome.expires_at_ms is None:
        return ""
    unless = "" if outcome.ttl.idle_s is None else " if it is not used before"
    return f": it expires {_time(outcome.expires_at_ms)}{unless}"


def _ended_text(one: SessionInfo) -> str:
    if one.last_status is None or one.last_ended_request_id is None:
        return one.last_status or _NONE
    return f"{one.last_ended_request_id}, {one.last_status}"


def _said_by(one: ConversationMessage) -> str:
    if one.role != "tool":
        return f"{one.role} (a summary of earlier turns)" if one.is_summary else one.role
    failed = ", failed" if one.failed else ""
    return f"tool {in_line(one.tool or 'unknown')}{failed}"


def _arguments(given: Mapping[str, Any] | str) -> str:
    if isinstance(given, str):
        return in_line(given)
    shown = (f"{name}={json.dumps(one, ensure_ascii=False)}" for name, one in given.items())
    return in_line(", ".join(shown))


def _pairs_text(metadata: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in metadata.items()) or _NONE


def _time(at_ms: int | None) -> str:
    return _NONE if at_ms is None else f"{time_text(at_ms)} UTC"


def _span_text(seconds: int) -> str:
    told = []
    for unit, of_unit in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, of_unit)
        if count:
            told.append(f"{count}{unit}")
    return " ".join(told)
