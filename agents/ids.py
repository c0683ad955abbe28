"""Ids of messages and model calls: unique, and no secret to anybody."""

from __future__ import annotations

import random
from uuid import UUID

__all__ = ["new_id", "new_uuid"]

# Seeded from the system once: `uuid4` asks it each time, which takes more CPU than all else here.
_RANDOM = random.Random()  # noqa: S311  an id is no secret


def new_uuid() -> UUID:
    """Give a random UUID (RFC 9562, version 4)."""
    return UUID(int=_RANDOM.getrandbits(128), version=4)


def new_id() -> str:
    """Give a random UUID as text."""
    return str(new_uuid())
