"""How a process speaks to Kafka and Redis: settings that carry the names of Kafka and redis-py.

A part of `Settings`, which reads them. What they come to is in `streams/broker/security/`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

__all__ = ["BrokerList", "ConnectionSettings", "Mechanism", "Protocol", "broker_list"]

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


_BROKER = re.compile(
    r"(?:[A-Za-z_]+://)?"
    r"((?:\[[0-9A-Za-z:.%]+\]|[0-9A-Za-z._%-]+)(?::([0-9]{1,5}))?|[0-9A-Fa-f:]+)"
)
_PORT_MAX = 65_535


def broker_list(text: str) -> str:
    """Give the brokers that are named, as `HOST:PORT,HOST:PORT`. Raises `ValueError`.

    As Kafka's own clients read them: a protocol may stand before a host, and says nothing. A place
    between commas that is empty is none: resolved, it would be this machine. A list of nothing is
    given back: it counts as none given.
    """
    if not text.strip():
        return ""
    found = []
    for named in filter(None, map(str.strip, text.split(","))):
        broker = _BROKER.fullmatch(named)
        if broker is None or not 0 < int(broker[2] or 1) <= _PORT_MAX:
            break
        found.append(broker[1])
    else:
        if found:
            return ",".join(found)
    message = "must name brokers, as HOST:PORT, comma-separated"
    raise ValueError(message)


BrokerList = Annotated[str, AfterValidator(broker_list)]


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _https_or_nothing(value: object) -> object:
    # librdkafka writes `none` for what Kafka writes as nothing.
    if isinstance(value, str):
        value = value.strip().lower()
    return "" if value == "none" else value


_SECRETS = ("_password", "_secret")
_MAY_BE_EMPTY = frozenset({"kafka_ssl_endpoint_identification_algorithm", "redis_url"})


class ConnectionSettings(BaseSettings):
    """Names are the properties' own: `kafka_ssl_ca_location` is librdkafka's `ssl.ca.location`.

    A secret is given by its variable or, better, by a file that `…_FILE` names: it is read anew for
    each connection, so a new one needs no restart. What a variable says wins over `kafka_config`.
    """

    kafka_config: Path | None = None
    """A properties file, as Kafka's own tools take it with `--command-config`: what it says of
    `bootstrap.servers`, `security.protocol`, `sasl.*` and `ssl.*`, in Java's names or librdkafka's,
    holds where no variable says otherwise; it is read anew when it changes."""
    kafka_security_protocol: Annotated[Protocol, BeforeValidator(_upper)] | None = None
    """`security.protocol`; none given: PLAINTEXT."""
    kafka_sasl_mechanism: Annotated[Mechanism, BeforeValidator(_upper)] | None = None
    """`sasl.mechanism`, where the protocol is one of SASL."""
    kafka_sasl_username: str | None = None
    """librdkafka's `sasl.username`; in Java's files, `username` of `sasl.jaas.config`."""
    kafka_sasl_password: SecretStr | None = None
    """librdkafka's `sasl.password`; in Java's files, `password` of `sasl.jaas.config`."""
    kafka_sasl_password_file: Path | None = None
    """A file that holds it."""
    kafka_ssl_ca_location: Path | None = None
    """librdkafka's `ssl.ca.location`, Java's `ssl.truststore.location`: certificates of the
    authorities that sign brokers', as PEM; none given: the system's."""
    kafka_ssl_certificate_location: Path | None = None
    """librdkafka's `ssl.certificate.location`, Java's `ssl.keystore.location` of type PEM: the
    client's certificate, with those between it and its authority, as PEM."""
    kafka_ssl_key_location: Path | None = None
    """librdkafka's `ssl.key.location`: its key, as PEM; none given: it is in the certificate's
    file."""
    kafka_ssl_key_password: SecretStr | None = None
    """`ssl.key.password`: what the key is encrypted with."""
    kafka_ssl_key_password_file: Path | None = None
    """A file that holds it."""
    kafka_ssl_endpoint_identification_algorithm: (
        Annotated[Literal["https", ""], BeforeValidator(_https_or_nothing)] | None
    ) = None
    """`ssl.endpoint.identification.algorithm`; none given: `https`, a broker's certificate must
    name the host that is connected to; nothing or `none`: it need not."""
    kafka_sasl_oauthbearer_token_endpoint_url: str | None = None
    """`sasl.oauthbearer.token.endpoint.url`: where OAUTHBEARER gets its tokens, `https://…`, or a
    file that holds one, `file:///…`."""
    kafka_sasl_oauthbearer_client_id: str | None = None
    """Java's `sasl.oauthbearer.client.credentials.client.id`, librdkafka's
    `sasl.oauthbearer.client.id`."""
    kafka_sasl_oauthbearer_client_secret: SecretStr | None = None
    """Java's `sasl.oauthbearer.client.credentials.client.secret`, librdkafka's
    `sasl.oauthbearer.client.secret`."""
    kafka_sasl_oauthbearer_client_secret_file: Path | None = None
    """A file that holds it."""
    kafka_sasl_oauthbearer_scope: str | None = None
    """`sasl.oauthbearer.scope`: what is asked for with the token."""
    kafka_sasl_oauthbearer_extensions: str | None = None
    """librdkafka's `sasl.oauthbearer.extensions`: `name=value`, comma-separated, as
    `logicalCluster=…,identityPoolId=…`."""
    kafka_https_ca_location: Path | None = None
    """librdkafka's `https.ca.location`: authorities of the token endpoint, as PEM; none given: the
    system's."""

    redis_username: str | None = None
    """The user by Redis' access control list, in place of one in `redis_url`."""
    redis_password: SecretStr | None = None
    """Its password, in place of one in `redis_url`."""
    redis_password_file: Path | None = None
    """A file that holds it."""
    redis_sentinel_username: str | None = None
    """The user at the sentinels, which have users of their own."""
    redis_sentinel_password: SecretStr | None = None
    """Its password."""
    redis_sentinel_password_file: Path | None = None
    """A file that holds it."""
    redis_ssl_ca_certs: Path | None = None
    """Certificates of the authorities that sign Redis', as PEM; none given: the system's."""
    redis_ssl_certfile: Path | None = None
    """The client's certificate, as PEM."""
    redis_ssl_keyfile: Path | None = None
    """Its key, as PEM; none given: it is in the certificate's file."""
    redis_ssl_password: SecretStr | None = None
    """What the key is encrypted with."""
    redis_ssl_password_file: Path | None = None
    """A file that holds it."""
    redis_ssl_check_hostname: bool = True
    """Whether Redis' certificate must name the host that is connected to."""

    @field_validator("*", mode="before")
    @classmethod
    def _are_lines(cls, value: object, about: ValidationInfo) -> object:
        """Take the end of a line off, which variables have of Kubernetes' secrets; refuse nothing.

        A path of nothing is the working folder, a user of nothing anybody.
        """
        name = about.field_name or ""
        if not isinstance(value, str) or not name.startswith(("kafka_", "redis_")):
            return value
        line = value.removesuffix("\n").removesuffix("\r")
        # What is said of an empty secret is said where its file may be given, too.
        if not line.strip() and name not in _MAY_BE_EMPTY and not name.endswith(_SECRETS):
            message = "is empty: set it, or unset it"
            raise ValueError(message)
        return line
