"""How Kafka is spoken to: one frozen value, made from the settings and the file that they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import Store, TlsFiles
from millstream.streams.broker.security.config_file import ConfigFile, read_config
from millstream.streams.broker.security.given import Given, is_readable_by_all, secret_of
from millstream.streams.connection_settings import Mechanism, Protocol

if TYPE_CHECKING:
    from millstream.streams.connection_settings import ConnectionSettings

__all__ = ["KafkaSecurity", "TokenSource", "read_security"]

_NOTHING = ConfigFile({})
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_SECRETS = (
    *("sasl.password", "sasl.oauthbearer.client.secret"),
    *("ssl.key.password", "ssl.key.pem", "ssl.keystore.password"),
)
"""Properties that nobody else is to read."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where OAUTHBEARER gets its tokens: an endpoint with client credentials, or a file."""

    url: Given
    client_id: Given | None = None
    client_secret: Given | None = None
    scope: Given | None = None
    extensions: tuple[tuple[str, str], ...] = ()
    authorities: Store | None = None
    encodes_client: bool = False
    """Whether id and secret are encoded as in a form before they are sent (KIP-1025)."""

    @property
    def file(self) -> Path | None:
        """The file that holds a token, `None` for an endpoint."""
        url = urlsplit(self.url.value)
        return Path(unquote("/" + url.path.lstrip("/"))) if url.scheme == "file" else None


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """Protocol, user and certificates, as they were read at one time; no `repr` shows a secret.

    `tls` is there with the protocols of TLS, `mechanism` with those of SASL, and with it `username`
    and `password`, or `tokens`.
    """

    protocol: Protocol = "PLAINTEXT"
    tls: TlsFiles | None = None
    mechanism: Mechanism | None = None
    username: Given | None = None
    password: Given | None = None
    tokens: TokenSource | None = None
    passed_over: tuple[str, ...] = ()
    secret_files: tuple[Path, ...] = ()

    def secrets(self) -> tuple[Given, ...]:
        """Give what users are proved by."""
        client = None if self.tokens is None else self.tokens.client_secret
        return tuple(secret for secret in (self.password, client) if secret is not None)

    def open_secrets(self) -> tuple[Path, ...]:
        """Give the files with secrets that every user of this machine may read."""
        return tuple(path for path in self.secret_files if is_readable_by_all(path))


def read_security(settings: ConnectionSettings) -> KafkaSecurity:
    """Read what settings and their files say now. Raises `Misconfigured`, which shows no secret."""
    file = _NOTHING if settings.kafka_config is None else read_config(settings.kafka_config)
    found = _Found(settings, file)
    protocol = _protocol(found)
    tls = found.tls() if protocol in {"SSL", "SASL_SSL"} else None
    if protocol not in {"SASL_SSL", "SASL_PLAINTEXT"}:
        if "kafka_sasl_mechanism" in settings.model_fields_set and settings.kafka_sasl_mechanism:
            raise Misconfigured(
                f"MILLSTREAM_KAFKA_SASL_MECHANISM is set, and the protocol is {protocol}: set "
                "MILLSTREAM_KAFKA_SECURITY_PROTOCOL to SASL_SSL or SASL_PLAINTEXT"
            )
        return KafkaSecurity(
            protocol, tls, passed_over=file.passed_over, secret_files=tuple(found.secret_files(tls))
        )
    mechanism = _mechanism(found, protocol)
    user = password = tokens = None
    if mechanism == "OAUTHBEARER":
        tokens = found.tokens()
    else:
        user = found.needed("sasl.username", f"{mechanism} needs a user")
        password = found.needed("sasl.password", f"{mechanism} needs a password")
    files = (*found.secret_files(tls), *([tokens.file] if tokens and tokens.file else []))
    return KafkaSecurity(protocol, tls, mechanism, user, password, tokens, file.passed_over, files)


def _protocol(found: _Found) -> Protocol:
    given = found.value("security.protocol")
    protocol = "PLAINTEXT" if given is None else given.value.upper()
    if protocol not in get_args(Protocol):
        assert given is not None  # noqa: S101  for the type checker
        raise Misconfigured(f"{given.named} must be one of {', '.join(get_args(Protocol))}")
    return cast("Protocol", protocol)


def _mechanism(found: _Found, protocol: str) -> Mechanism:
    given = found.needed("sasl.mechanism", f"{protocol} needs a mechanism")
    mechanism = given.value.upper()
    if mechanism not in get_args(Mechanism):
        raise Misconfigured(
            f"{given.named}: {mechanism} is not spoken here; {', '.join(get_args(Mechanism))} are"
        )
    return cast("Mechanism", mechanism)


class _Found:
    """Properties by librdkafka's names: a variable's value, else the file's."""

    def __init__(self, settings: ConnectionSettings, file: ConfigFile) -> None:
        self._settings = settings
        self._file = file

    def value(self, name: str) -> Given | None:
        field = f"kafka_{name.replace('.', '_')}"
        variable = f"MILLSTREAM_{field.upper()}"
        given: Any = getattr(self._settings, field, None)
        if hasattr(self._settings, f"{field}_file"):
            secret = secret_of(variable, cast("SecretStr", given), self._secret_file(field))
            return self._file.get(name) if secret is None else secret
        if given is None:
            return self._file.get(name)
        return Given(str(given), variable)

    def needed(self, name: str, why: str) -> Given:
        given = self.value(name)
        if given is None:
            field = f"MILLSTREAM_KAFKA_{name.replace('.', '_').upper()}"
            or_file = f" or {field}_FILE" if name.endswith(("password", "secret")) else ""
            raise Misconfigured(
                f"{why}: set {field}{or_file}, or {name} in MILLSTREAM_KAFKA_CONFIG"
            )
        return given

    def tls(self) -> TlsFiles:
        key_password = self.value("ssl.key.password")
        named = self._file.values.get("ssl.endpoint.identification.algorithm")
        algorithm = self._settings.kafka_ssl_endpoint_identification_algorithm
        if algorithm is None:
            algorithm = "https" if named is None else cast("Any", named.value.lower())
        verifies = self._file.get("enable.ssl.certificate.verification")
        return TlsFiles(
            authorities=self._store("ssl.ca.location", "ssl.ca.pem", "ssl.truststore"),
            certificate=self._store(
                "ssl.certificate.location", "ssl.certificate.pem", "ssl.keystore"
            ),
            key=self._store("ssl.key.location", "ssl.key.pem", None),
            # Of a PKCS12, Java's `ssl.key.password` is that of the key in it, most often the same.
            key_password=key_password or self.value("ssl.keystore.password"),
            checks_host=algorithm not in {"", "none"},
            verifies=verifies is None or verifies.value.lower() != "false",
        )

    def tokens(self) -> TokenSource:
        url = self.needed("sasl.oauthbearer.token.endpoint.url", "OAUTHBEARER needs its tokens")
        encodes = self._file.get("sasl.oauthbearer.header.urlencode")
        source = TokenSource(
            url,
            self.value("sasl.oauthbearer.client.id"),
            self.value("sasl.oauthbearer.client.secret"),
            self.value("sasl.oauthbearer.scope"),
            _extensions(self.value("sasl.oauthbearer.extensions")),
            self._store("https.ca.location", "https.ca.pem", None),
            encodes is not None and encodes.value == "true",
        )
        _check_url(url)
        if source.file is not None:
            return source
        for name in ("sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret"):
            self.needed(name, "a token endpoint needs a client")
        return source

    def secret_files(self, tls: TlsFiles | None) -> Iterator[Path]:
        settings = self._settings
        for field in ("sasl_password", "ssl_key_password", "sasl_oauthbearer_client_secret"):
            if (path := self._secret_file(f"kafka_{field}")) is not None:
                yield path
        if settings.kafka_config is not None and any(map(self._file.get, _SECRETS)):
            yield settings.kafka_config
        if tls is not None:
            yield from tls.secret_paths

    def _secret_file(self, field: str) -> Path | None:
        return cast("Path | None", getattr(self._settings, f"{field}_file"))

    def _store(self, location: str, inline: str, store: str | None) -> Store | None:
        field = f"kafka_{location.replace('.', '_')}"
        given: Path | None = getattr(self._settings, field)
        if given is not None:
            return Store(Given(str(given), f"MILLSTREAM_{field.upper()}"))
        if (pem := self._file.get(inline)) is not None:
            return Store(pem, is_inline=True)
        if (path := self._file.get(location)) is not None:
            # So librdkafka is told to look for the system's.
            return None if path.value == "probe" else Store(path)
        if store is not None and (path := self._file.get(f"{store}.location")) is not None:
            return Store(path, password=self._file.get(f"{store}.password"))
        return None


def _check_url(given: Given) -> None:
    """Raise `Misconfigured` for a URL that gives no token, or to which no secret is to be sent."""
    message = (
        f"{given.named} must be https://HOST/… or file:///…: the client's secret is sent there"
    )
    try:
        url = urlsplit(given.value)
        host, port, user = url.hostname, url.port, url.username
    except ValueError:
        raise Misconfigured(message) from None
    if url.scheme == "file" and url.netloc in {"", "localhost"} and url.path.strip("/"):
        return
    is_in_clear = url.scheme == "http" and host in _THIS_MACHINE
    if not host or port == 0 or not (url.scheme == "https" or is_in_clear):
        raise Misconfigured(message)
    if user is not None:
        raise Misconfigured(
            f"{given.named} has a user in it: name it as the client's id, and its password as the "
            "client's secret"
        )


def _extensions(given: Given | None) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    pairs = [pair.partition("=") for pair in given.value.split(",")]
    if any(not name.strip() or not equals for name, equals, _ in pairs):
        raise Misconfigured(f"{given.named} must be name=value, comma-separated")
    return tuple((name.strip(), value.strip()) for name, _, value in pairs)
