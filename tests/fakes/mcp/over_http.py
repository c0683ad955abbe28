"""Serves the official server by streamable HTTP, in a thread of this process, on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tests.fakes.mcp.official import official_server

__all__ = ["OfficialOverHttp", "free_port", "served"]


@dataclass
class OfficialOverHttp:
    """A server that is up; `headers` are those of each request."""

    url: str
    headers: list[dict[str, str]] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class _Server(uvicorn.Server):
    def __init__(self, started: threading.Event, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._has_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._has_started.set()


@contextmanager
def served(log: Path, *, stateless: bool = False, port: int = 0) -> Iterator[OfficialOverHttp]:
    """Serve it until the end of the block, or `stop`."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    made = official_server(log, stateless_http=stateless, json_response=stateless)
    app = made.streamable_http_app()
    up = OfficialOverHttp(f"http://127.0.0.1:{sock.getsockname()[1]}/mcp")

    async def heard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            up.headers.append({key.decode(): value.decode() for key, value in scope["headers"]})
        await app(scope, receive, send)

    started = threading.Event()
    server = _Server(
        started,
        uvicorn.Config(
            heard, log_config=None, timeout_graceful_shutdown=1, ws="none", lifespan="on"
        ),
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(10)
        sock.close()

    up.stop = stop
    assert started.wait(10)
    try:
        yield up
    finally:
        stop()
