"""TLS in front of a server that speaks none, as a tunnel would put it there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.making.certificates import Authority, Pair

__all__ = ["tls_proxy"]


@asynccontextmanager
async def tls_proxy(
    port: int, own: Pair, *, clients: Authority | None = None
) -> AsyncIterator[int]:
    """Serve TLS at a port, which it gives, for a server at `port`.

    `clients`: the authority of certificates that clients must have; none are asked for without.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.both)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.path)
    writers: set[asyncio.StreamWriter] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", port)
        writers.update((writer, behind))
        await asyncio.gather(pipe(reader, behind), pipe(behind_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()
