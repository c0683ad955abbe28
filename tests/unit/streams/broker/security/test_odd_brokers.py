"""Ports where something else answers than a broker: a client says so, and gives nothing away."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from millstream.streams.broker.security.live import LiveSecurity
from millstream.streams.broker.security.refusals import AccessRefused
from millstream.streams.settings import Settings

SECRET = "hunter2-it-is"  # noqa: S105  the tests' own
_HANDSHAKE, _VERSIONS = 17, 18
_KNOWN = ((3, 0, 5), (_HANDSHAKE, 0, 1), (_VERSIONS, 0, 2), (36, 0, 1))
_STEPS = (
    b"r=x",
    b"",
    b"\xff\xfe",
    b"r=x,s=!!,i=4096",
    b"i=9",
    b"=,=",
    b",",
    b"v=x",
    b"e=other-error",
)


def answer(request: bytes, follows: int, odd: random.Random) -> bytes:
    """Answer as a broker does for so many requests, and then anything."""
    key, _, number = struct.unpack(">hhi", request[:8])
    if key == _VERSIONS and follows > 0:
        versions = b"".join(struct.pack(">hhh", *one) for one in _KNOWN)
        return struct.pack(">ihi", number, 0, len(_KNOWN)) + versions
    if key == _HANDSHAKE and follows > 1:
        name = b"SCRAM-SHA-256"
        return struct.pack(">ihih", number, 0, 1, len(name)) + name
    if follows > 2:
        step = odd.choice(_STEPS)
        return struct.pack(">ihhi", number, 0, -1, len(step)) + step + struct.pack(">q", 1 << 62)
    number = number if odd.random() < 0.8 else odd.randrange(1 << 31)
    return struct.pack(">i", number) + odd.randbytes(odd.randrange(40))


@asynccontextmanager
async def odd_broker(follows: int, seed: int) -> AsyncIterator[int]:
    odd = random.Random(seed)  # noqa: S311  no secret

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                answered = answer(await reader.readexactly(size), follows, odd)
                writer.write(struct.pack(">i", len(answered)) + answered)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as serving:
        yield serving.sockets[0].getsockname()[1]


@pytest.mark.parametrize("follows", [0, 1, 2, 3])
async def test_whatever_answers_is_a_broker_that_is_not_reached(
    follows: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    given: dict[str, Any] = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_username": "ada",
        "sasl_password": SECRET,
    }
    live = LiveSecurity(Settings(**{f"kafka_{name}": value for name, value in given.items()}))
    # Of others it is asked what they speak, which takes a second.
    for seed in range(25 if follows > 2 else 3):
        async with odd_broker(follows, seed) as port:
            with pytest.raises((KafkaError, OSError)) as told:
                await live.connect("127.0.0.1", port, timeout_s=5)
        assert SECRET not in f"{told.value!r} {told.value.__cause__!r}"
        if follows > 2:
            assert isinstance(told.value, AccessRefused)
            assert "it may be another's broker" in str(told.value)
    assert SECRET not in caplog.text
