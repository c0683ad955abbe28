"""Ports on 127.0.0.1, kept between starts as far as they are still free."""

import asyncio
import random
import socket
from collections.abc import Iterable, Mapping

from millstream.infra.errors import NoFreePort

__all__ = ["HOST", "choose_ports", "is_free", "listens"]

HOST = "127.0.0.1"
# Below Linux's ephemeral range (32768 and up): no outgoing connection takes a port we stored.
_RANGE = range(15_000, 32_000)
_TRIES_MAX = 200


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As the JVM and Redis do, so that connections in TIME_WAIT do not make it look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_ports(names: Iterable[str], before: Mapping[str, int]) -> dict[str, int]:
    """Give each name a free port of its own: the one it had before, else a new one.

    Raises `NoFreePort` after 200 tries for one name.
    """
    chosen: dict[str, int] = {}
    for name in names:
        kept = before.get(name)
        taken = {*chosen.values(), *before.values()}
        if kept is not None and is_free(kept):
            chosen[name] = kept
        else:
            chosen[name] = _fresh(taken)
    return chosen


async def listens(address: str, timeout_s: float = 2.0) -> bool:
    """Tell whether something accepts connections at host:port."""
    host, _, port = address.strip().rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True


def _fresh(taken: set[int]) -> int:
    for _ in range(_TRIES_MAX):
        port = random.choice(_RANGE)  # noqa: S311  chance only spreads launchers apart
        if port not in taken and is_free(port):
            return port
    message = f"no free port found on {HOST} in {_RANGE.start}-{_RANGE.stop - 1}"
    raise NoFreePort(message)
