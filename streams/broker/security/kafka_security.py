"""How Kafka is spoken to: one frozen value, made from the settings and the file that they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

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
_IN_CLEAR = frozenset({"http://localhost", "http://127.0.0.1", "http://[::1]"})


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where OAUTHBEARER gets its tokens: an endpoint with client credentials, or a file."""

    url: Given
    client_id: Given | None = None
    client_secret: Given | None = None
    scope: Given | None = None
    extensions: tuple[tuple[str, str], ...] = ()
    authorities: Store | None = None

    @property
    def file(self) -> Path | None:
        """The file that holds a token, `None` for an endpoint."""
        scheme, _, rest = self.url.value.partition(":")
        return Path("/" + rest.lstrip("/")) if scheme.lower() == "file" else None


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
        source = TokenSource(
            url,
            self.value("sasl.oauthbearer.client.id"),
            self.value("sasl.oauthbearer.client.secret"),
            self.value("sasl.oauthbearer.scope"),
            _extensions(self.value("sasl.oauthbearer.extensions")),
            self._store("https.ca.location", "https.ca.pem", None),
        )
        if source.file is not None:
            return source
        scheme, _, rest = url.value.partition("://")
        host = f"{scheme}://{rest.partition('/')[0].rpartition(':')[0] or rest.partition('/')[0]}"
        if scheme != "https" and host not in _IN_CLEAR:
            raise Misconfigured(
                f"{url.named} must be https://… or file:///…: the client's secret is sent there"
            )
        for name in ("sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret"):
            self.needed(name, "a token endpoint needs a client")
        return source

    def secret_files(self, tls: TlsFiles | None) -> Iterator[Path]:
        settings = self._settings
        for field in ("sasl_password", "ssl_key_password", "sasl_oauthbearer_client_secret"):
            if (path := self._secret_file(f"kafka_{field}")) is not None:
                yield path
        secret = ("sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password")
        if settings.kafka_config is not None and any(map(self._file.get, secret)):
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
            return Store(path)
        if store is not None and (path := self._file.get(f"{store}.location")) is not None:
            return Store(path, password=self._file.get(f"{store}.password"))
        return None


def _extensions(given: Given | None) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    pairs = [pair.partition("=") for pair in given.value.split(",")]
    if any(not name.strip() or not equals for name, equals, _ in pairs):
        raise Misconfigured(f"{given.named} must be name=value, comma-separated")
    return tuple((name.strip(), value.strip()) for name, _, value in pairs)
