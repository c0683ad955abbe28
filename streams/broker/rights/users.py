"""The users that a deployment has, each for one kind of program, and the roles that each needs.

`millstream up --secure` makes them, and `millstream topics acls` prints their rights.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from millstream.streams.broker.rights.needed import Role

__all__ = ["USERS", "User"]

User = Literal["upstream", "product", "client", "worker", "auditor", "operator"]

USERS: Mapping[User, tuple[Role, ...]] = MappingProxyType(
    {
        "upstream": ("upstream",),
        "product": ("product",),
        # Who asks and reads the answer, as `submit` and `chat` do.
        "client": ("upstream", "product"),
        "worker": ("lanes", "views"),
        "auditor": ("auditor",),
        "operator": ("operator",),
    }
)
"""Roles by user."""
