"""Certificates that brokers change in the middle of a load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from millstream.infra.errors import NotRotated
from millstream.infra.kafka.rotation import Rotation
from millstream.infra.secure.certificates import now
from tests.support import eventually

_TRIES_S = 120.0


async def rotate_at(half: Awaitable[None], rotation: Rotation, told: Callable[[str], None]) -> None:
    """Give all brokers new certificates once `half` of the load is done, and tell.

    Where a broker is away meanwhile it is tried again. Raises `AssertionError` after two minutes.
    """
    await half
    wanted = {node.name for node in rotation.nodes}
    renewed: set[str] = set()

    async def all_have_theirs() -> bool:
        try:
            renewed.update(await rotation.certificates(now(), always=not renewed))
        except NotRotated:
            return False
        return wanted <= renewed

    await eventually(all_have_theirs, timeout_s=_TRIES_S)
    told(f"{len(renewed)} certificates rotated")
