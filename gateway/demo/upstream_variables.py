"""What the demonstration's upstream program is told of a Kafka with TLS and users."""

from __future__ import annotations

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.kafka_security import read_security
from millstream.streams.settings import Settings

__all__ = ["upstream_variables"]


def upstream_variables(settings: Settings) -> dict[str, str]:
    """Give the variables by which `docs/examples/upstream.py` connects as the settings say.

    Raises `Misconfigured` for tokens and for a client's certificate, which it does not take.
    """
    security = read_security(settings)
    tls = security.tls
    if security.tokens is not None or (tls is not None and tls.certificate is not None):
        message = "the demonstration connects to Kafka by a user's name and password, or without"
        raise Misconfigured(message)
    found: dict[str, str] = {"KAFKA_SECURITY_PROTOCOL": security.protocol}
    if security.mechanism is not None:
        found["KAFKA_SASL_MECHANISM"] = security.mechanism
    if tls is not None and tls.authorities is not None:
        found["KAFKA_SSL_CA_LOCATION"] = str(tls.authorities.path)
    user = {"KAFKA_SASL_USERNAME": security.username, "KAFKA_SASL_PASSWORD": security.password}
    return found | {name: given.value for name, given in user.items() if given is not None}
