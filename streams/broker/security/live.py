"""What secures this process's connections now: files are looked at anew for each connection.

So a certificate that is renewed, and a password that is changed, count from the next connection on.
While they cannot be read, as when a certificate is renewed and its key is not yet, what was read
last stays, and the log says so once.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import (
    Stamp,
    TlsFiles,
    certificate_ends_at,
    context_of,
    stamp_of,
)
from millstream.streams.broker.security.connection import SecuredConnection
from millstream.streams.broker.security.kafka_security import KafkaSecurity, read_security
from millstream.streams.broker.security.probing import Spoken, look_at
from millstream.streams.broker.security.refusals import AccessRefused, is_ambiguous, told_of_tls
from millstream.streams.broker.security.tokens import Tokens
from millstream.streams.connection_settings import ConnectionSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["LiveSecurity", "live_security"]

_LOOKED_S = 30.0
"""For so long it is known what a port speaks."""

_REFUSALS_MAX = 64
_REFUSED_S = 60.0
_ENDS_SOON = timedelta(days=7)
_IN_CLEAR = frozenset({"PLAIN", "OAUTHBEARER"})
_PLACE = re.compile(r"\$\{[^}]*\}")

log = logging.getLogger(__name__)


class LiveSecurity:
    """Makes connections by what the settings and their files say now.

    It is made with what they say at first. Raises `Misconfigured` where that is wrong.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._tokens: Tokens | None = None
        self._security = read_security(settings)
        self._context: ssl.SSLContext | None = None
        self._made_from: tuple[TlsFiles, Stamp] | None = None
        self._told: str | None = None
        self._refusals: dict[tuple[str, int], tuple[float, str]] = {}
        self._refuses_user = False
        self._spoken: dict[tuple[str, int], tuple[float, Spoken]] = {}
        self._renew(self._security)

    @property
    def is_plaintext(self) -> bool:
        """Whether nothing secures them: no TLS, no user."""
        return self._security.protocol == "PLAINTEXT"

    @property
    def refusals(self) -> Mapping[tuple[str, int], str]:
        """Why brokers could not be connected to when last tried, by host and port.

        What was tried a minute ago and not since is forgotten.
        """
        since_s = time.monotonic() - _REFUSED_S
        return {place: why for place, (at_s, why) in self._refusals.items() if at_s >= since_s}

    def told(self) -> list[str]:
        """Say why brokers are not let in to, or do not let in: a line each, none where all do."""
        refusals = sorted(self.refusals.items())
        told = [f"Kafka at {host}:{port}: {why}" for (host, port), why in refusals]
        return [*told, *([f"settings of security: {self._told}"] if self._told else [])]

    def warnings(self) -> tuple[str, ...]:
        """Say what is doubtful and works: secrets that all may read, a certificate that ends."""
        security = self._security
        found = [
            f"{path} holds a secret, and every user of this machine may read it: chmod 600 {path}"
            for path in security.open_secrets()
        ]
        if (ends_in := self._ends_in()) is not None and ends_in < _ENDS_SOON:
            named = _own_certificate(security)
            when = "has expired" if ends_in <= timedelta(0) else f"ends in {ends_in.days} days"
            found.append(f"{named}: the client's certificate {when}: renew it")
        if security.tls is not None and not security.tls.verifies:
            found.append("brokers' certificates are not looked at: anybody may pose as a broker")
        found += _of_secrets(security)
        if security.passed_over:
            names = ", ".join(security.passed_over)
            found.append(f"MILLSTREAM_KAFKA_CONFIG: passed over, as nothing here reads it: {names}")
        return tuple(found)

    def _ends_in(self) -> timedelta | None:
        try:
            files = self._security.tls
            ends_at = None if files is None else certificate_ends_at(files)
        except Misconfigured:
            return None
        return None if ends_at is None else ends_at - datetime.now(UTC)

    @property
    def refuses_user(self) -> bool:
        """Whether the last connection was refused for its user or password."""
        return self._refuses_user

    def now(self) -> tuple[KafkaSecurity, ssl.SSLContext | None]:
        """Give what holds now, with a context for the protocols of TLS."""
        try:
            self._renew(read_security(self._settings))
        except Misconfigured as error:
            if self._told != str(error):
                self._told = str(error)
                log.warning("what was read before stays in use: %s", error)
        else:
            if self._told is not None:
                self._told = None
                log.warning("settings of security can be read again")
        return self._security, self._context

    def _renew(self, security: KafkaSecurity) -> None:
        """Take over what was read, with a context made of it: both or none."""
        files = security.tls
        if files is None:
            self._context = self._made_from = None
        else:
            made_from = files, stamp_of(files.watched_paths)
            if made_from != self._made_from:
                self._context, self._made_from = context_of(files), made_from
        self._security = security

    async def connect(
        self, host: str, port: int, *, timeout_s: float, **how: Any
    ) -> SecuredConnection:
        """Connect to a broker, within a time-out. Raises `OSError` or `KafkaError`.

        `AccessRefused` is raised where it is no fault of the network, and says what to mend.
        """
        security, context = self.now()
        if self._tokens is None:
            self._tokens = Tokens()
        conn = SecuredConnection(
            host, port, security=security, tokens=self._tokens, ssl_context=context, **how
        )
        try:
            async with asyncio.timeout(timeout_s):
                await conn.connect()
        except (OSError, EOFError, KafkaError, Misconfigured) as error:
            refused = await self._understood(error, security, host, port)
            self._note(host, port, str(refused) or type(refused).__name__)
            self._refuses_user = isinstance(refused, AccessRefused) and refused.of_user
            if refused is error:
                raise
            raise refused from error
        self._refusals.pop((host, port), None)
        self._refuses_user = False
        return conn

    async def told_of_end(self, host: str, port: int, *, timeout_s: float) -> AccessRefused | None:
        """Say why a broker ended a connection at its first request: its port may want a user."""
        if self._security.mechanism is not None:
            return None
        try:
            conn = await self.connect(host, port, timeout_s=timeout_s)
            try:
                async with asyncio.timeout(timeout_s):
                    offered = await conn.wanted_mechanisms()
            finally:
                conn.close()
        except (OSError, KafkaError):
            return None
        if not offered:
            return None
        return AccessRefused(
            f"its port wants a user, by {' or '.join(sorted(offered))}: set "
            f"MILLSTREAM_KAFKA_SECURITY_PROTOCOL to SASL_{self._security.protocol}, and "
            "MILLSTREAM_KAFKA_SASL_MECHANISM"
        )

    async def _understood(
        self, error: Exception, security: KafkaSecurity, host: str, port: int
    ) -> Exception:
        if isinstance(error, AccessRefused):
            return error
        if isinstance(error, Misconfigured):
            return AccessRefused(str(error))
        told = told_of_tls(error, security, host)
        if told is not None and not isinstance(error, ssl.SSLCertVerificationError):
            ends_in = self._ends_in()
            if ends_in is not None and ends_in <= timedelta(0):
                named = _own_certificate(security)
                told = f"it refuses the client's certificate, which has expired: renew {named}"
        if told is not None and not _is_of_name(error):
            return AccessRefused(told)
        if not is_ambiguous(error):
            return error
        spoken = await self._spoken_at(host, port)
        if told is not None:
            return AccessRefused(told_of_tls(error, security, host, spoken.names) or told)
        return _of_another_protocol(security, spoken) or error

    async def _spoken_at(self, host: str, port: int) -> Spoken:
        known = self._spoken.get((host, port))
        if known is not None and time.monotonic() - known[0] < _LOOKED_S:
            return known[1]
        spoken = await look_at(host, port)
        if len(self._spoken) >= _REFUSALS_MAX:
            self._spoken.clear()
        self._spoken[host, port] = time.monotonic(), spoken
        return spoken

    def _note(self, host: str, port: int, why: str) -> None:
        if len(self._refusals) >= _REFUSALS_MAX:
            self._refusals.pop(next(iter(self._refusals)))
        self._refusals[host, port] = time.monotonic(), why


def _of_secrets(security: KafkaSecurity) -> Iterator[str]:
    """Say what is odd about a secret, and not what it is."""
    for secret in security.secrets():
        if secret.value != secret.value.strip():
            yield f"{secret.named}: it begins or ends with a blank, which counts as a part of it"
        if _PLACE.search(secret.value):
            yield f"{secret.named}: nothing takes the place of a ${{…}} in it, it counts as it is"
    if security.tls is None and security.mechanism in _IN_CLEAR:
        what = "the token" if security.mechanism == "OAUTHBEARER" else "the password"
        yield (
            f"{what} goes over the network in clear, to be read by whoever sees it: set "
            "MILLSTREAM_KAFKA_SECURITY_PROTOCOL to SASL_SSL"
        )


def _of_another_protocol(security: KafkaSecurity, spoken: Spoken) -> AccessRefused | None:
    sasl = "SASL_" if security.mechanism is not None else ""
    name = "MILLSTREAM_KAFKA_SECURITY_PROTOCOL"
    if security.tls is None and spoken.is_tls:
        return AccessRefused(
            f"its port speaks TLS, and {security.protocol} does not: set {name} to {sasl}SSL"
        )
    if security.tls is not None and spoken.is_plaintext:
        plain = f"{sasl}PLAINTEXT"
        return AccessRefused(
            f"its port does not speak TLS: set {name} to {plain}, or name the port that does"
        )
    if security.tls is not None and spoken.is_tls:
        return AccessRefused(
            "it ends the connection behind the handshake of TLS: it wants a certificate of the "
            "client, or refuses the one of MILLSTREAM_KAFKA_SSL_CERTIFICATE_LOCATION"
        )
    return None


def _own_certificate(security: KafkaSecurity) -> str:
    files = security.tls
    return "" if files is None or files.certificate is None else files.certificate.given.named


def _is_of_name(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in {62, 64}


def live_security(settings: ConnectionSettings) -> LiveSecurity:
    """Give what secures the connections of these settings: one for all clients of a process.

    Raises `Misconfigured`.
    """
    names = (name for name in ConnectionSettings.model_fields if name.startswith("kafka_"))
    given = tuple((name, getattr(settings, name)) for name in names)
    return _live(given)


@lru_cache(maxsize=16)
def _live(given: tuple[tuple[str, Any], ...]) -> LiveSecurity:
    return LiveSecurity(ConnectionSettings.model_construct(**dict(given)))
