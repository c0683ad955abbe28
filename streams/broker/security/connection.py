"""A connection to a broker, and how it is authenticated: aiokafka's, but for SASL, which is ours.

aiokafka's own writes what it sends, password and all, into its log at level debug, takes a token
that a broker refuses for one that it took, and does not note when a session ends (KIP-368).
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from aiokafka.conn import (
    AIOKafkaConnection,
    CloseReason,
    SaslPlainAuthenticator,
    ScramAuthenticator,
)
from aiokafka.errors import IncompatibleBrokerVersion, for_code
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest
from typing_extensions import override

from millstream.streams.broker.security.kafka_security import KafkaSecurity
from millstream.streams.broker.security.refusals import AccessRefused
from millstream.streams.broker.security.tokens import Tokens

__all__ = ["Scram", "SecuredConnection"]

_UNSUPPORTED_MECHANISM, _ILLEGAL_STATE = 33, 34
_ERROR_TAKEN = b"\x01"
_RENEW_SHARES = 0.8, 0.9
"""After so much of its session a connection gets no further requests: not all at the same time."""

_ITERATIONS = range(4096, 1_000_001)
"""How often SCRAM may have a password hashed (RFC 5802, 9; RFC 7677, 4).

Who asks for less than brokers may be set to wants to guess it, who asks for more to stop us.
"""

_ANSWERS_MAX_S = 40.0


class SecuredConnection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that knows how it is secured; `connect` raises `AccessRefused` for SASL's."""

    def __init__(
        self, host: str, port: int, *, security: KafkaSecurity, tokens: Tokens, **how: Any
    ) -> None:
        super().__init__(host, port, security_protocol=security.protocol, **how)
        self.security = security
        self._tokens = tokens
        self._renew_at_s: float | None = None
        self._token = ""
        self._leaving: asyncio.Task[None] | None = None

    @property
    def is_spent(self) -> bool:
        """Whether its session ends soon: what is sent next is to go over another connection."""
        return self._renew_at_s is not None and self._loop.time() >= self._renew_at_s

    async def wanted_mechanisms(self) -> tuple[str, ...]:
        """Ask which mechanisms its port has; none where it takes no users. Raises `KafkaError`."""
        answer = await self.send(SaslHandShakeRequest("PLAIN"))
        return () if answer.error_code == _ILLEGAL_STATE else tuple(answer.enabled_mechanisms)

    def leave(self) -> None:
        """Close it once all that was sent is answered."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._close_answered())

    async def _close_answered(self) -> None:
        waiting = {future for _, _, future in self._requests}
        if waiting:
            await asyncio.wait(waiting, timeout=_ANSWERS_MAX_S)
        self.close(reason=CloseReason.SHUTDOWN)

    async def _do_sasl_handshake(self) -> None:
        security = self.security
        answer = await self.send(SaslHandShakeRequest(security.mechanism))
        if answer.error_code == _ILLEGAL_STATE:
            protocol = security.protocol.removeprefix("SASL_")
            protocol = "SSL" if protocol == "SSL" else "PLAINTEXT"
            raise AccessRefused(
                "its port takes no users: set MILLSTREAM_KAFKA_SECURITY_PROTOCOL to "
                f"{protocol}, or name the port that does"
            )
        if answer.error_code not in {0, _UNSUPPORTED_MECHANISM}:
            raise for_code(answer.error_code)(f"SASL at {self.host}:{self.port}")
        if security.mechanism not in answer.enabled_mechanisms:
            offered = ", ".join(sorted(answer.enabled_mechanisms)) or "none"
            raise AccessRefused(
                f"it has no {security.mechanism}; its mechanisms are {offered}: set "
                "MILLSTREAM_KAFKA_SASL_MECHANISM"
            )
        if answer.API_VERSION == 0:
            message = "SASL needs brokers of Kafka 1.0 or newer"
            raise IncompatibleBrokerVersion(message)
        if security.mechanism == "OAUTHBEARER":
            await self._send_token()
        else:
            await self._prove()

    async def _prove(self) -> None:
        """Authenticate by a password."""
        security = self.security
        assert security.username is not None  # noqa: S101  for the type checker
        assert security.password is not None  # noqa: S101
        given = {
            "loop": self._loop,
            "sasl_plain_username": security.username.value,
            "sasl_plain_password": security.password.value,
        }
        authenticator = (
            SaslPlainAuthenticator(**given)
            if security.mechanism == "PLAIN"
            else Scram(**given, sasl_mechanism=security.mechanism)
        )
        received: bytes | None = None
        try:
            while (step := await authenticator.step(received)) is not None:
                received = await self._exchange(step[0])
        except (ValueError, KeyError, AssertionError):
            raise AccessRefused(
                f"it does not prove that it knows the password of {security.username.value!r}: it "
                "may be another's broker"
            ) from None

    async def _send_token(self) -> None:
        """Authenticate by a token (RFC 7628; KIP-255)."""
        tokens = self.security.tokens
        assert tokens is not None  # noqa: S101  for the type checker
        token = self._token = await self._tokens.token(tokens)
        more = "".join(f"\x01{name}={value}" for name, value in tokens.extensions)
        if await self._exchange(f"n,,\x01auth=Bearer {token}{more}\x01\x01".encode()):
            # It says in JSON why it refuses, and then fails what is sent next.
            await self._exchange(_ERROR_TAKEN)
            raise AccessRefused(self._refused("the token"), of_user=True)

    async def _exchange(self, payload: bytes) -> bytes:
        answer = await self.send(SaslAuthenticateRequest(_Hidden(payload)))
        if answer.error_code:
            self._tokens.forget()
            raise AccessRefused(self._refused(answer.error_message), of_user=True)
        lifetime_ms = getattr(answer, "session_lifetime_ms", 0)
        if lifetime_ms > 0:
            share = random.uniform(*_RENEW_SHARES)  # noqa: S311  no secret
            self._renew_at_s = self._loop.time() + share * lifetime_ms / 1000
        return bytes(answer.sasl_auth_bytes or b"")

    def _refused(self, why: str | None) -> str:
        security = self.security
        if security.mechanism == "OAUTHBEARER":
            assert security.tokens is not None  # noqa: S101  for the type checker
            checked = security.tokens.url.named
            expired = self._tokens.told_of_expiry(self._token)
            why = why or "it does not say why"
            return f"it refuses the token ({why}){expired or f': check {checked}'}"
        assert security.username is not None  # noqa: S101  for the type checker
        assert security.password is not None  # noqa: S101
        checked = " and ".join(dict.fromkeys((security.username.named, security.password.named)))
        # Kafka's brokers read a user's name in SCRAM by a pattern that has no other signs.
        is_odd = security.mechanism != "PLAIN" and not security.username.value.isascii()
        hint = "; Kafka takes only ASCII in the name of a user of SCRAM" if is_odd else ""
        return (
            f"it refuses user {security.username.value!r} or its password by {security.mechanism}: "
            f"check {checked}{hint}"
        )


class Scram(ScramAuthenticator):  # type: ignore[misc]
    """aiokafka's, which hashes a password as often as it is told to, once or for hours."""

    @override
    def create_salted_password(self, salt: bytes, iterations: int) -> None:
        if iterations not in _ITERATIONS:
            message = f"{iterations} rounds of hashing"
            raise ValueError(message)
        super().create_salted_password(salt, iterations)


class _Hidden(bytes):
    """Bytes that aiokafka may write into its log."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(hidden)"

    def __getitem__(self, _at: Any) -> Any:
        return b"(hidden)"
