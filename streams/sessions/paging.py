"""Paging through a user's sessions, newest first: the cursor and the slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The view forgets a session `ttl_s` after its last write, and a user's oldest beyond the cap.

    What is forgotten here stands on the log, and comes back with the session's next checkpoint.
    """

    ttl_s: int = 7 * 86_400
    sessions_per_user_max: int = 1000


Position = tuple[int, str]
"""When a session was last written, in ms since the epoch, and its id: orders sessions in whole."""


def cursor(position: Position) -> str:
    """Write a position as what a client hands back for the next page."""
    return f"{position[0]}:{position[1]}"


def page_of(
    positions: Sequence[Position], *, limit: int, after: str | None
) -> tuple[list[Position], str | None]:
    """Give the `limit` newest positions that are older than `after`, and the next cursor.

    A session written meanwhile moves to the front, so no page shows it a second time.
    Raises `ValueError` for a cursor that `cursor` did not write.
    """
    ordered = sorted(positions, reverse=True)
    if after is not None:
        bound = _parse(after)
        ordered = [position for position in ordered if position < bound]
    page = ordered[:limit]
    return page, cursor(page[-1]) if len(ordered) > limit else None


def _parse(after: str) -> Position:
    at_ms, separator, session_id = after.partition(":")
    if not separator or not at_ms.isdecimal():
        message = f"{after!r} is no cursor of a page of sessions; leave it out to begin anew"
        raise ValueError(message)
    return int(at_ms), session_id
