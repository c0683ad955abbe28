"""A broker that says where brokers are, and nothing else; on demand it takes and never answers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

__all__ = ["HOST", "MetadataBroker", "metadata_broker"]

HOST = "127.0.0.1"
_METADATA, _COORDINATOR, _VERSIONS = 3, 10, 18


class MetadataBroker:
    """Answers by `nodes`: a port for each node id.

    `hangs`: it answers nothing any more; `is_mute`: nothing but which versions it speaks.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.nodes: dict[int, int] = {0: port}
        self.hangs = False
        self.is_mute = False
        self.connections = 0
        self.connected = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        self.connections += 1
        self.connected.set()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(size)
                key, _, correlation = struct.unpack(">hhi", request[:8])
                if self.hangs or (self.is_mute and key != _VERSIONS):
                    continue
                body = struct.pack(">i", correlation) + _answer(key, self.nodes)
                writer.write(struct.pack(">i", len(body)) + body)
        writer.close()


def _answer(key: int, nodes: Mapping[int, int]) -> bytes:
    if key == _VERSIONS:
        ranges = ((_METADATA, 0, 1), (_COORDINATOR, 0, 0), (_VERSIONS, 0, 0))
        return struct.pack(">hi", 0, len(ranges)) + b"".join(
            struct.pack(">hhh", *r) for r in ranges
        )
    host = struct.pack(">h", len(HOST)) + HOST.encode()
    brokers = b"".join(
        struct.pack(">i", node) + host + struct.pack(">ih", port, -1)
        for node, port in nodes.items()
    )
    return struct.pack(">i", len(nodes)) + brokers + struct.pack(">ii", 0, 0)


@asynccontextmanager
async def metadata_broker(port: int = 0) -> AsyncIterator[MetadataBroker]:
    """Serve on a port, any if it is 0; all connections end with it."""
    broker = MetadataBroker(port)
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        await broker.serve(reader, writer)
        writers.discard(writer)

    server = await asyncio.start_server(serve, HOST, port)
    broker.port = server.sockets[0].getsockname()[1]
    broker.nodes = {0: broker.port}
    try:
        yield broker
    finally:
        server.close()
        for writer in tuple(writers):
            writer.close()
        await server.wait_closed()
