"""Paging through a user's sessions by when they were created: places, and the cursor.

When a session was created never changes, so a session that is used, closed or opened again between
two pages is neither skipped nor shown twice. An order by last use could not promise that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Final
from urllib.parse import quote, unquote

from millstream.agents.sessions.manager import SessionFilter, SessionOrder
from millstream.schemas.sessions.errors import SessionInputInvalid
from millstream.schemas.topics import CHECKPOINTS, DAY_MS
from millstream.streams.topic_settings.retention import Retention

__all__ = [
    "Cursors",
    "SessionLimits",
    "bounds",
    "name_of",
    "place_of",
    "quoted",
    "session_at",
]

_DIGITS: Final = 15
_PLACE: Final = re.compile(rf"[0-9]{{{_DIGITS}}}:(.+)", re.DOTALL | re.ASCII)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What the view forgets, in seconds since its last write, and in number.

    A session is forgotten after `ttl_s`, as the log forgets it, and a user's least recently used
    ones beyond the cap. What its newest checkpoint holds is forgotten earlier. Either stands on the
    log, and comes back with the session's next turn.
    """

    ttl_s: int = (CHECKPOINTS.retention_ms or 30 * DAY_MS) // 1000
    sessions_per_user_max: int = 200_000
    checkpoint_ttl_s: int = 7 * 86_400
    checkpoints_per_user_max: int = 1000
    checkpoints_per_session_max: int = 1000

    @classmethod
    def of(cls, retention: Retention) -> SessionLimits:
        """Give them where topics keep records for so long."""
        return cls(ttl_s=(retention.ms(CHECKPOINTS) or 0) // 1000)

    def since_ms(self, now_ms: int) -> int:
        """Give from when on the log has checkpoints."""
        return now_ms - self.ttl_s * 1000


def quoted(name: str) -> str:
    """Write a name so that it forges no key and no place."""
    return quote(name, safe="")


def place_of(created_at_ms: int, session_id: str) -> str:
    """Give where a session stands among its user's: places sort as text."""
    return f"{created_at_ms:0{_DIGITS}}:{quoted(session_id)}"


def name_of(place: str) -> str | None:
    """Give the quoted id of the session at a place, `None` where that is no place of ours."""
    match = _PLACE.fullmatch(place)
    if match is None or not place.isascii() or quoted(unquote(match[1])) != match[1]:
        return None
    return match[1]


def session_at(place: str) -> str | None:
    """Give the id of the session at a place, `None` where that is no place of ours."""
    name = name_of(place)
    return None if name is None else unquote(name)


class Cursors:
    """The cursors of one user, order and filter: no other's are taken for them."""

    def __init__(
        self, tenant: str, user_id: str, order: SessionOrder, wanted: SessionFilter
    ) -> None:
        asked = asdict(wanted) | {"metadata": _sorted(wanted.metadata)}
        whose = json.dumps([tenant, user_id, order, asked], sort_keys=True)
        self._digest = blake2b(whose.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def at(self, place: str) -> str:
        """Write what a client hands back for what comes behind a place."""
        return f"{self._digest}:{place}"

    def place(self, cursor: str | None) -> str | None:
        """Read what `at` wrote. Raises `SessionInputInvalid` for anything else."""
        if cursor is None:
            return None
        digest, _, place = cursor.partition(":")
        if name_of(place) is None:
            message = f"{cursor!r} is no cursor of a page of sessions; leave it out to begin anew"
            raise SessionInputInvalid(message)
        if digest != self._digest:
            message = (
                "the cursor is of a page of another user, order or filter; ask as that page was "
                "asked for, or leave the cursor out to begin anew"
            )
            raise SessionInputInvalid(message)
        return place


def bounds(wanted: SessionFilter) -> tuple[str | None, str | None]:
    """Give the first place that a filter's times of creation let through, and that behind them."""
    first, behind = wanted.created_from_ms, wanted.created_before_ms
    return (
        None if first is None else f"{max(0, first):0{_DIGITS}}:",
        None if behind is None else f"{max(0, behind):0{_DIGITS}}:",
    )


def _sorted(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(metadata.items())
