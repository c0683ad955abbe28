"""What the upstream program is told of a Kafka with users or TLS: it reads none of our settings."""

from __future__ import annotations

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import TlsFiles
from millstream.streams.broker.security.kafka_security import read_security
from millstream.streams.connection_settings import ConnectionSettings
from millstream.streams.settings import own_environment

__all__ = ["upstream_environment"]

_PREFIX = "KAFKA_"
_PEM, _ENCRYPTED = b"-----BEGIN ", b"ENCRYPTED"


def upstream_environment(settings: ConnectionSettings) -> dict[str, str]:
    """Give the environment of the program: ours, with the names of `docs/examples/upstream.py`.

    A secret stands in no argument. Raises `Misconfigured` where it could not connect by these
    settings: it knows no tokens, and certificates as files of PEM.
    """
    security = read_security(settings)
    if security.tokens is not None:
        message = "the demonstration's upstream program knows no tokens: give it a user"
        raise Misconfigured(message)
    if security.tls is not None:
        _check(security.tls)
    given: dict[str, str | None] = {
        "SECURITY_PROTOCOL": security.protocol,
        "SASL_MECHANISM": security.mechanism,
    }
    for name, secret in (
        ("SASL_USERNAME", security.username),
        ("SASL_PASSWORD", security.password),
    ):
        given[name] = None if secret is None else secret.value
    if (tls := security.tls) is not None:
        for name, store in (
            ("SSL_CA_LOCATION", tls.authorities),
            ("SSL_CERTIFICATE_LOCATION", tls.certificate),
            ("SSL_KEY_LOCATION", tls.key),
        ):
            given[name] = None if store is None or store.path is None else str(store.path)
    ours = {
        name: value for name, value in own_environment().items() if not name.startswith(_PREFIX)
    }
    return ours | {_PREFIX + name: value for name, value in given.items() if value is not None}


def _check(tls: TlsFiles) -> None:
    """Raise `Misconfigured` where the program could not connect, or would ask at the terminal."""
    stores = [one for one in (tls.authorities, tls.certificate, tls.key) if one is not None]
    read = [one.read() for one in stores]
    why = None
    if any(one.is_inline for one in stores) or any(_PEM not in data for data in read):
        why = "certificates and keys as files of PEM alone"
    elif any(_ENCRYPTED in data for data in read):
        why = "no key that is encrypted"
    elif not (tls.checks_host and tls.verifies):
        why = "no broker whose certificate is not for its host"
    if why is not None:
        raise Misconfigured(f"the demonstration's upstream program knows {why}")
