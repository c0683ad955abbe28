"""The settings of connections, as librdkafka has them, for measures that compare its clients."""

from __future__ import annotations

from millstream.streams.broker.security.kafka_security import read_security
from millstream.streams.settings import Settings

__all__ = ["librdkafka"]


def librdkafka(settings: Settings) -> dict[str, str]:
    """Give the properties of a client that is secured as the settings say, with files of PEM.

    Raises `ValueError` for tokens, which librdkafka gets in a way of its own.
    """
    security = read_security(settings)
    if security.tokens is not None:
        message = "measures with librdkafka take no tokens"
        raise ValueError(message)
    found = {"bootstrap.servers": settings.kafka, "security.protocol": security.protocol}
    for name, given in (
        ("sasl.username", security.username),
        ("sasl.password", security.password),
    ):
        if given is not None:
            found[name] = given.value
    if security.mechanism is not None:
        found["sasl.mechanisms"] = security.mechanism
    if (tls := security.tls) is not None:
        stores = {
            "ssl.ca.location": tls.authorities,
            "ssl.certificate.location": tls.certificate,
            "ssl.key.location": tls.key or tls.certificate,
        }
        found |= {name: str(at.path) for name, at in stores.items() if at is not None}
        found["ssl.endpoint.identification.algorithm"] = "https" if tls.checks_host else "none"
        if tls.key_password is not None:
            found["ssl.key.password"] = tls.key_password.value
    return found
