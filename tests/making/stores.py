"""What settings name of TLS, as it is read."""

from __future__ import annotations

from millstream.streams.broker.security.certificates import Store
from millstream.streams.broker.security.given import Given

__all__ = ["PASSWORD", "store"]

PASSWORD = "hunter2"  # noqa: S105  the tests' own


def store(value: object, named: str = "X", password: str | None = None) -> Store:
    """Give what stands at a path, or is the thing itself."""
    return Store(
        Given(str(value), named), password=None if password is None else Given(password, "PW")
    )
