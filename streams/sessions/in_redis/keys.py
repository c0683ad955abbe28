"""The view's keys: all of a user's in one slot, none that an id could forge.

Per session a hash of what is known of it, a hash of its newest checkpoint, and a sorted set of its
checkpoints by offset; per user a sorted set of sessions by when they were last written, and one of
their places by when they were created. The braces are Redis Cluster's hash tag: all keys of a user
are on one node, so that one script may change them together. Names are percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from millstream.streams.sessions.paging import quoted

__all__ = ["KINDS", "SessionKeys", "UserKeys", "kind_of", "pattern_of", "user_of"]


class UserKeys(NamedTuple):
    """What all keys of a user begin with, and the two that are the user's own."""

    base: str
    written: str
    places: str

    @classmethod
    def of(cls, namespace: str, tenant: str, user_id: str) -> UserKeys:
        """Give the keys of a user."""
        base = f"{namespace}:{{{quoted(tenant)}/{quoted(user_id)}}}"
        return cls(base, f"{base}:sessions", f"{base}:places")

    def session(self, session_id: str) -> SessionKeys:
        """Give the keys of one of the user's sessions."""
        return self.named(quoted(session_id))

    def named(self, name: str) -> SessionKeys:
        """Give the keys of a session by its quoted id."""
        return SessionKeys(
            f"{self.base}:session:{name}",
            self.written,
            self.places,
            f"{self.base}:checkpoint:{name}",
            f"{self.base}:checkpoints:{name}",
        )


class SessionKeys(NamedTuple):
    """The keys that the scripts are given, in their order."""

    facts: str
    written: str
    places: str
    checkpoint: str
    checkpoints: str


KINDS: Sequence[str] = ("hash", "zset", "zset", "hash", "zset")
"""The types of the keys in `SessionKeys`, in its order."""

_KIND = re.compile(r".*?\}:(sessions$|places$|session:|checkpoint:|checkpoints:)", re.DOTALL)
_BY_PART = {"sessions": 1, "places": 2, "session:": 0, "checkpoint:": 3, "checkpoints:": 4}


def kind_of(key: str) -> str | None:
    """Give the type that a key of the view has, `None` for a key that is none of the view's."""
    match = _KIND.match(key)
    return None if match is None else KINDS[_BY_PART[match[1]]]


def user_of(key: str) -> str | None:
    """Give what all keys of this one's user begin with, `None` for a key of nobody's."""
    base, brace, rest = key.partition("}:")
    return base + "}" if brace and rest else None


def pattern_of(namespace: str, rest: str = "*") -> str:
    """Write what matches the keys of a view; Redis reads it as a pattern."""
    return re.sub(r"([\\*?\[\]^-])", r"\\\1", namespace) + ":{" + rest
