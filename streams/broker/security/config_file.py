"""A file of properties, as Kafka's own tools take it: Java's names and librdkafka's come to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.given import Given
from millstream.streams.broker.security.jaas import parse_jaas
from millstream.streams.properties_file import read_properties

__all__ = ["ConfigFile", "config_of", "read_config"]

_SAME = {
    "sasl.mechanisms": "sasl.mechanism",
    "sasl.oauthbearer.client.credentials.client.id": "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.credentials.client.secret": "sasl.oauthbearer.client.secret",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
}
"""Names of one thing: the second is the one that is used here."""

_KNOWN = frozenset(
    {
        *_SAME,
        *_SAME.values(),
        "enable.ssl.certificate.verification",
        "https.ca.location",
        "sasl.jaas.config",
        "sasl.oauthbearer.extensions",
        "sasl.oauthbearer.header.urlencode",
        "sasl.oauthbearer.scope",
        "sasl.oauthbearer.token.endpoint.url",
        "sasl.password",
        "sasl.username",
        "security.protocol",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.endpoint.identification.algorithm",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.keystore.location",
        "ssl.keystore.password",
        "ssl.truststore.location",
        "ssl.truststore.password",
    }
)
_STORE_TYPES = {"ssl.truststore.type": ("PEM", "PKCS12"), "ssl.keystore.type": ("PEM", "PKCS12")}
_CHOICES = {
    "sasl.oauthbearer.method": ("default", "oidc"),
    "sasl.oauthbearer.grant.type": ("client_credentials",),
    "sasl.login.callback.handler.class": (
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
        "org.apache.kafka.common.security.oauthbearer.secured.OAuthBearerLoginCallbackHandler",
    ),
    "sasl.oauthbearer.jwt.retriever.class": tuple(
        f"org.apache.kafka.common.security.oauthbearer.{kind}JwtRetriever"
        for kind in ("Default", "File", "ClientCredentials")
    ),
}
"""Properties that change nothing here, if they say what is done here."""

_YES_OR_NO = {
    **dict.fromkeys(("true", "t", "1"), "true"),
    **dict.fromkeys(("false", "f", "0"), "false"),
}
"""As librdkafka reads them."""

_SWITCHES = frozenset({"enable.ssl.certificate.verification", "sasl.oauthbearer.header.urlencode"})

_OF_JAVA = (
    "sasl.kerberos.",
    "sasl.login.",
    "sasl.oauthbearer.clock.skew.seconds",
    "sasl.oauthbearer.expected.",
    "sasl.oauthbearer.jwks.",
    "sasl.oauthbearer.scope.claim.name",
    "sasl.oauthbearer.sub.claim.name",
    "ssl.cipher.suites",
    "ssl.enabled.protocols",
    "ssl.engine.factory.class",
    "ssl.keymanager.algorithm",
    "ssl.protocol",
    "ssl.provider",
    "ssl.secure.random.implementation",
    "ssl.trustmanager.algorithm",
)
"""Properties of how Java's client does it, of Kerberos, and of what brokers check: passed over."""

_SERVERS = frozenset({"bootstrap.servers", "metadata.broker.list"})
_OURS = ("security.", "sasl.", "ssl.", "config.providers")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file says of security, by librdkafka's names; `passed_over` is what else it names."""

    values: Mapping[str, Given]
    passed_over: tuple[str, ...] = ()

    def get(self, name: str) -> Given | None:
        """Give a value, `None` where the file has none or an empty one."""
        given = self.values.get(name)
        return given if given is not None and given.value else None


def read_config(path: Path) -> ConfigFile:
    """Read a file. Raises `Misconfigured`, naming what is wrong and never its value."""
    return config_of(read_properties(path, named="MILLSTREAM_KAFKA_CONFIG"), str(path))


def config_of(found: Mapping[str, str], file: str) -> ConfigFile:
    """Give what properties say; `file` is where they stand. Raises `Misconfigured`."""
    values: dict[str, Given] = {}
    passed_over: list[str] = []
    for name, value in found.items():
        named = f"{name} in {file}"
        if name == "sasl.jaas.config":
            options = parse_jaas(value, named=named)
            values |= {option: Given(text, named) for option, text in options.items()}
        elif name in _KNOWN:
            values[_SAME.get(name, name)] = Given(_plain(name, value, named), named)
        elif name in _STORE_TYPES or name in _CHOICES:
            _check_choice(name, value.strip(), named)
        elif name.startswith(_OF_JAVA):
            passed_over.append(name)
        elif name.startswith(_OURS):
            raise Misconfigured(f"{named}: {_unknown(name)}")
        elif name not in _SERVERS:
            passed_over.append(name)
    return ConfigFile(values, tuple(passed_over))


def _check_choice(name: str, value: str, named: str) -> None:
    choices = _STORE_TYPES.get(name) or _CHOICES[name]
    if value.upper() == "JKS":
        option = name.replace("type", "location")
        message = (
            f"{named} is JKS, which only Java reads: `keytool -importkeystore -srckeystore OLD.jks "
            f"-destkeystore NEW.p12 -deststoretype PKCS12` makes a PKCS12 of it for {option}"
        )
        raise Misconfigured(message)
    if value not in choices and value.upper() not in choices:
        raise Misconfigured(f"{named}: only {', '.join(choices)} will do here")


def _plain(name: str, value: str, named: str) -> str:
    """Give a value as Kafka takes it: blanks around it are part of a secret alone."""
    if name in _SWITCHES:
        known = _YES_OR_NO.get(value.strip().lower())
        if known is None:
            raise Misconfigured(f"{named}: write true or false")
        return known
    return value if name.endswith(("password", "secret")) else value.strip()


def _unknown(name: str) -> str:
    nearest = get_close_matches(name, sorted(_KNOWN), n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else "take it out"
    return f"there is no such property here; {advice}"
