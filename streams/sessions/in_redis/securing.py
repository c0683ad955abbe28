"""How Redis is spoken to: user, password and certificates, looked at anew for each connection.

redis-py asks a provider for user and password as it connects, and builds a context of TLS for each
connection, once. Here contexts are shared, and built anew when their files change.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import SecretStr
from redis.asyncio import connection as redis_connection
from redis.asyncio.connection import RedisSSLContext
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import (
    Stamp,
    Store,
    TlsFiles,
    context_of,
    stamp_of,
)
from millstream.streams.broker.security.given import Given, is_readable_by_all, secret_of
from millstream.streams.telemetry.causes import causes_of

if TYPE_CHECKING:
    from millstream.streams.connection_settings import ConnectionSettings

__all__ = ["open_secrets", "sentinel_options", "tls_options", "told_refusal", "user_options"]

_CONTEXTS_MAX = 16

log = logging.getLogger(__name__)


def user_options(settings: ConnectionSettings, taken: dict[str, Any]) -> dict[str, Any]:
    """Give options with the settings' user in place of the URL's, where they name one.

    Raises `Misconfigured` for a secret that is missing or given twice.
    """
    password = _Secret(
        "MILLSTREAM_REDIS_PASSWORD", settings.redis_password, settings.redis_password_file
    )
    return _with_user(taken, settings.redis_username, password)


def sentinel_options(settings: ConnectionSettings, taken: dict[str, Any]) -> dict[str, Any]:
    """Give a sentinel's options, its own user in them; takes `sentinel_…` out of the others."""
    own = {name: taken.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    password = _Secret(
        "MILLSTREAM_REDIS_SENTINEL_PASSWORD",
        settings.redis_sentinel_password,
        settings.redis_sentinel_password_file,
    )
    given = {name: value for name, value in own.items() if value is not None}
    return _with_user(given, settings.redis_sentinel_username, password)


def tls_options(settings: ConnectionSettings) -> dict[str, Any]:
    """Give the options of TLS that are set. Raises `Misconfigured` where files will not do."""
    redis_connection.RedisSSLContext = RenewedContext  # type: ignore[misc]
    password = _Secret(
        "MILLSTREAM_REDIS_SSL_PASSWORD",
        settings.redis_ssl_password,
        settings.redis_ssl_password_file,
    )
    given: dict[str, Any] = {
        "ssl_ca_certs": settings.redis_ssl_ca_certs and str(settings.redis_ssl_ca_certs),
        "ssl_certfile": settings.redis_ssl_certfile
        and _CertificateFile(settings.redis_ssl_certfile, password),
        "ssl_keyfile": settings.redis_ssl_keyfile and str(settings.redis_ssl_keyfile),
    }
    options = {name: value for name, value in given.items() if value is not None}
    if not settings.redis_ssl_check_hostname:
        options["ssl_check_hostname"] = False
    return options


def open_secrets(settings: ConnectionSettings) -> tuple[Path, ...]:
    """Give the files with secrets of Redis that every user of this machine may read."""
    files = (
        settings.redis_password_file,
        settings.redis_sentinel_password_file,
        settings.redis_ssl_password_file,
        settings.redis_ssl_keyfile or settings.redis_ssl_certfile,
    )
    return tuple(file for file in files if file is not None and is_readable_by_all(file))


def told_refusal(error: BaseException) -> str | None:
    """Say what to mend where it is no fault of the network that Redis does not answer."""
    words = str(error)
    if isinstance(error, AuthenticationError) or "WRONGPASS" in words or "NOAUTH" in words:
        return (
            "it refuses the user or its password: check MILLSTREAM_REDIS_USERNAME and "
            "MILLSTREAM_REDIS_PASSWORD, or MILLSTREAM_REDIS_PASSWORD_FILE"
        )
    for cause in causes_of(error, beside=True):
        if isinstance(cause, FilesRefused):
            return str(cause)
        if isinstance(cause, NoPermissionError):
            # A client of a cluster says that there is none, where it may not ask.
            return f"its user lacks a right ({cause}): docs/how-to/redis.md says which are needed"
        if isinstance(cause, ssl.SSLError) and (told := _told_of_tls(cause)) is not None:
            return told
    return None


def _told_of_tls(error: ssl.SSLError) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is refused ({error.verify_message}): name its authority in "
            "MILLSTREAM_REDIS_SSL_CA_CERTS, and the host as the certificate does"
        )
    reason = str(error.reason or error)
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        return "its port does not speak TLS: write redis for rediss in MILLSTREAM_REDIS_URL"
    if "ALERT" in reason:
        return (
            f"it refuses the client's certificate, or wants one ({reason.lower().replace('_', ' ')}"
            "): check MILLSTREAM_REDIS_SSL_CERTFILE"
        )
    return None


class _Secret:
    """A secret that is read when it is asked for; while it cannot be, the last one stays."""

    def __init__(self, name: str, literal: SecretStr | None, file: Path | None) -> None:
        self._name = name
        self._literal = literal
        self._file = file
        self._last = secret_of(name, literal, file)
        self._told: str | None = None

    def given(self) -> Given | None:
        """Give it, `None` where there is none."""
        try:
            self._last = secret_of(self._name, self._literal, self._file)
        except Misconfigured as error:
            if self._told != str(error):
                self._told = str(error)
                log.warning("what was read before stays in use: %s", error)
        else:
            self._told = None
        return self._last

    def __call__(self) -> str:
        """Give its text, none where there is no secret."""
        given = self.given()
        return "" if given is None else given.value


class _CertificateFile(str):
    """A certificate's path, with its key's password: a cluster's client takes no password."""

    __slots__ = ("password",)

    password: _Secret

    def __new__(cls, path: Path, password: _Secret) -> Self:
        """Note the password with the path."""
        made = super().__new__(cls, path)
        made.password = password
        return made


class _Credentials(CredentialProvider):
    """Gives user and password to each connection that is made."""

    def __init__(self, username: str | None, password: _Secret) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Give the password, and the user where one is named."""
        password = self._password()
        return (password,) if self._username is None else (self._username, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Give the same."""
        return self.get_credentials()


def _with_user(taken: dict[str, Any], username: str | None, password: _Secret) -> dict[str, Any]:
    if password.given() is None:
        return taken if username is None else {**taken, "username": username}
    kept = {name: value for name, value in taken.items() if name not in {"username", "password"}}
    username = username or taken.get("username")
    return {**kept, "credential_provider": _Credentials(username, password)}


class FilesRefused(RedisConnectionError):
    """Files of TLS will not do: it says which, and what to mend. No server was asked."""


class RenewedContext(RedisSSLContext):
    """redis-py's context, shared, and built anew when its files change."""

    __slots__ = ()

    def get(self) -> ssl.SSLContext:
        """Give the context. Raises redis' `ConnectionError` where the files never would do."""
        odd = (self.ca_data, self.ca_path, self.ciphers, self.min_version)
        flags = (self.include_verify_flags, self.exclude_verify_flags)
        if any(part is not None for part in (*odd, *flags)):
            self.context = None
            if isinstance(held := self.certfile, _CertificateFile):
                # Without one, even an empty one, OpenSSL asks at the terminal.
                self.password = held.password()
            return super().get()
        try:
            return _contexts.get(self._files())
        except Misconfigured as error:
            raise FilesRefused(str(error)) from None

    def _files(self) -> TlsFiles:
        held = self.certfile
        text = held.password() if isinstance(held, _CertificateFile) else self.password
        return TlsFiles(
            authorities=_store(self.ca_certs, "MILLSTREAM_REDIS_SSL_CA_CERTS"),
            certificate=_store(self.certfile, "MILLSTREAM_REDIS_SSL_CERTFILE"),
            key=_store(self.keyfile, "MILLSTREAM_REDIS_SSL_KEYFILE"),
            key_password=Given(text, "MILLSTREAM_REDIS_SSL_PASSWORD") if text else None,
            checks_host=bool(self.check_hostname),
            verifies=self.cert_reqs != ssl.CERT_NONE,
        )


def _store(path: str | None, named: str) -> Store | None:
    return None if path is None else Store(Given(path, named))


class _Contexts:
    """Contexts by what they are made from; one whose files will not do now stays what it was."""

    def __init__(self) -> None:
        # By what is the same for as long as a process runs: a key's password may be another one.
        self._made: dict[TlsFiles, tuple[TlsFiles, Stamp, ssl.SSLContext]] = {}
        self._told: str | None = None

    def get(self, files: TlsFiles) -> ssl.SSLContext:
        """Give a context. Raises `Misconfigured` where there was none before."""
        place = replace(files, key_password=None)
        stamp, known = stamp_of(files.watched_paths), self._made.get(place)
        if known is not None and known[:2] == (files, stamp):
            return known[2]
        try:
            context = context_of(files)
        except Misconfigured as error:
            if known is None:
                raise
            if self._told != str(error):
                self._told = str(error)
                log.warning("what was read before stays in use: %s", error)
            return known[2]
        self._told = None
        if len(self._made) >= _CONTEXTS_MAX:
            self._made.pop(next(iter(self._made)))
        self._made[place] = files, stamp, context
        return context


_contexts = _Contexts()
