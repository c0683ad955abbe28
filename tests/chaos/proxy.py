"""A TCP proxy on 127.0.0.1 that can be slow, silent, or torn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK_BYTES = 16_384


class Proxy:
    """What lies between one side and the other; change it at any time.

    `latency_s` is added to each chunk of up to 16 KiB, so it bounds the throughput too.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open = asyncio.Event()
        self._open.set()
        self._refuses = False
        self._ways: set[asyncio.Task[None]] = set()
        self.latency_s = 0.0
        self.bytes_per_s = float("inf")
        self.connections = 0

    def cut(self) -> None:
        """Forward nothing more, and tell nobody, as a cable that was pulled."""
        self._open.clear()

    def tear(self) -> None:
        """Close all connections and refuse new ones, as a firewall that was changed."""
        self._refuses = True
        for way in self._ways:
            way.cancel()

    def lead(self, port: int) -> None:
        """Have all connections end, and new ones lead to another port, as a name that moves."""
        self._target = (self._target[0], port)
        for way in self._ways:
            way.cancel()

    def heal(self) -> None:
        """Forward everything at once, also what waits."""
        self.latency_s, self.bytes_per_s, self._refuses = 0.0, float("inf"), False
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a client with the target until either ends."""
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if self._refuses:
                return
            self.connections += 1
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            with contextlib.closing(far_writer):
                ways = {
                    asyncio.create_task(self._forward(reader, far_writer)),
                    asyncio.create_task(self._forward(far_reader, writer)),
                }
                self._ways |= ways
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
                    self._ways -= ways

    async def close(self) -> None:
        """End all connections."""
        self.tear()
        if self._ways:
            await asyncio.wait(self._ways)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            delay_s = self.latency_s + len(chunk) / self.bytes_per_s
            await asyncio.sleep(delay_s)  # noqa: TID251  a slow network is what it plays
            await self._open.wait()
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def proxied(port: int, host: str, target_port: int) -> AsyncIterator[Proxy]:
    """Listen on `host:port` and forward to `host:target_port`."""
    proxy = Proxy(host, target_port)
    server = await asyncio.start_server(proxy.serve, host, port)
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
