"""A session's hash in Redis, read: what it holds may be anything, since anybody may write there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast, get_args

from millstream.schemas.events import ResultStatus, SessionUpdated
from millstream.schemas.sessions.states import SessionState
from millstream.streams.sessions.facts import Facts, Turned

__all__ = ["FIELDS", "ask_fields", "ask_type", "facts_of"]

FIELDS: Final = (
    "turn",
    "updated",
    "request",
    "created",
    "status",
    "ended",
    "head",
    "whole",
    "state",
)


def facts_of(fields: Sequence[str | None]) -> Facts | None:
    """Give what the fields say, `None` where there is no session.

    Raises `ValueError` for what cannot be read.
    """
    turn, updated, request, created, status, ended, head, whole, state = fields
    if state == "deleted":
        return None
    turned = None
    if turn is not None and updated is not None and request is not None:
        request.encode()  # raises for what is no text
        turned = Turned(int(turn), int(updated), request)
    if ended is not None:
        ended.encode()
    if status is not None and status not in get_args(ResultStatus):
        message = f"{status!r} is no status of a result"
        raise ValueError(message)
    return Facts(
        turned=turned,
        began_ms=int(created) if created is not None and created.isdecimal() else None,
        head=None if head is None else SessionUpdated.model_validate_json(head),
        state=None if whole is None else SessionState.model_validate_json(whole),
        status=cast("ResultStatus | None", status),
        ended=ended,
    )


def ask_type(piped: Any, key: str) -> None:
    """Add to a pipeline: of which type is a key."""
    piped.type(key)


def ask_fields(piped: Any, key: str) -> None:
    """Add to a pipeline: what is known of a session."""
    piped.hmget(key, FIELDS)
