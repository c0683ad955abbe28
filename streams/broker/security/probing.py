"""What a port speaks, where a connection to it fails: TLS or not, and with which certificate."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cryptography import x509

__all__ = ["Spoken", "look_at"]

_ANSWER_S = 1.0
_ANSWER_BYTES_MAX = 4096
_CORRELATION = 7
# ApiVersions in version 0, of a client without a name: any broker answers it, before any user.
_VERSIONS = struct.pack(">ihhih", 10, 18, 0, _CORRELATION, -1)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a port speaks; `names` are those of its certificate."""

    is_tls: bool = False
    is_plaintext: bool = False
    names: tuple[str, ...] = ()


def _is_of_kafka(answer: bytes) -> bool:
    return answer[4:8] == struct.pack(">i", _CORRELATION)


async def look_at(
    host: str,
    port: int,
    *,
    asked: bytes = _VERSIONS,
    is_answer: Callable[[bytes], bool] = _is_of_kafka,
) -> Spoken:
    """Ask a port in TLS, which trusts any certificate and sends nothing, and without.

    `is_answer` tells whether what comes is an answer to `asked`; by default they are Kafka's.
    """
    (tls, names), answer = await asyncio.gather(
        _asked_in_tls(host, port), _answer(host, port, asked)
    )
    return Spoken(is_tls=tls, is_plaintext=is_answer(answer), names=names)


async def _asked_in_tls(host: str, port: int) -> tuple[bool, tuple[str, ...]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in str(error.reason or error).upper(), ()
    except (OSError, TimeoutError):
        return False, ()
    given = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            await writer.wait_closed()
    return True, _names(given) if given else ()


async def _answer(host: str, port: int, asked: bytes) -> bytes:
    """Give what a port answers without TLS, nothing where it does not."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(asked)
                return await reader.read(_ANSWER_BYTES_MAX)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError):
        return b""


def _names(der: bytes) -> tuple[str, ...]:
    try:
        found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.ExtensionNotFound):
        return ()
    hosts = found.value.get_values_for_type(x509.DNSName)
    return (*hosts, *map(str, found.value.get_values_for_type(x509.IPAddress)))
