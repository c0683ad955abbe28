"""What a connection gives away of a password, and to whom.

Public reports: cyrusimap/cyrus-sasl#811 and brianc/node-postgres#3655, a server that asks for one
round of hashing may guess the password; irssi/irssi#1630, one that asks for billions stops us.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode

import pytest

from millstream.streams.broker.security.connection import Scram


async def answered(*, iterations: int, nonce: str = "more") -> None:
    """Have a broker ask for so many rounds."""
    scram = Scram(
        loop=asyncio.get_running_loop(),
        sasl_plain_username="ada",
        sasl_plain_password="hunter2",  # noqa: S106  the tests' own
        sasl_mechanism="SCRAM-SHA-256",
    )
    first = await scram.step(None)
    assert first is not None
    own = first[0].decode().rpartition("r=")[2] if nonce == "more" else ""
    salt = b64encode(b"salt").decode()
    await scram.step(f"r={own}{nonce},s={salt},i={iterations}".encode())


@pytest.mark.parametrize("iterations", [0, 1, 4095, 1_000_001, 1 << 40])
async def test_a_broker_gets_no_proof_that_is_cheap_to_guess_from_or_takes_hours(
    iterations: int,
) -> None:
    with pytest.raises(ValueError, match="rounds of hashing"):
        await answered(iterations=iterations)


async def test_a_broker_gets_a_proof_for_what_brokers_ask() -> None:
    await answered(iterations=4096)
    await answered(iterations=16_384)
    with pytest.raises(ValueError, match="nonce"):
        await answered(iterations=4096, nonce="another's")
