"""TLS contexts of certificates and keys in files: PEM, PKCS12, or PEM within the settings.

A context is built whole from what is read at one time, so that a certificate which is replaced
half-way never meets the key of another. JKS, Java's own form, is refused with the command that
converts it.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from typing_extensions import override

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.given import Given, is_no_path

__all__ = ["Stamp", "Store", "TlsFiles", "certificate_ends_at", "context_of", "stamp_of"]

Stamp = tuple[tuple[str, int, int, int], ...]
"""Files by what changes when they are written or replaced: time, size and inode."""

_JKS = b"\xfe\xed\xfe\xed"
_PEM = b"-----BEGIN "
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_PEM_HEADER = re.compile(rb"^[A-Za-z-]+: .*$", re.MULTILINE)
_LINE_BYTES = 64
_STORE_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Store:
    """Certificates, or a key: a file of PEM or PKCS12, or PEM itself."""

    given: Given
    is_inline: bool = False
    password: Given | None = None

    @property
    def path(self) -> Path | None:
        """The file, `None` where the PEM itself was given."""
        return None if self.is_inline else Path(self.given.value)

    def read(self) -> bytes:
        """Read it. Raises `Misconfigured`."""
        if (path := self.path) is None:
            return _blocks(self.given.value.encode(), self.given.named)
        if is_no_path(path):
            raise Misconfigured(
                f"{self.given.named}: it must name a file, and seems to be what such a file holds"
            )
        try:
            with path.open("rb") as file:
                data = file.read(_STORE_BYTES_MAX)
        except FileNotFoundError:
            raise Misconfigured(f"{self.given.named}: there is no file {path}") from None
        except OSError as error:
            reason = error.strerror or "an error"
            raise Misconfigured(f"{self.given.named}: {path} cannot be read ({reason})") from None
        if not data.strip():
            raise Misconfigured(f"{self.given.named}: {path} is empty")
        if data.startswith(_JKS):
            raise Misconfigured(
                f"{self.given.named}: {path} is a JKS: `keytool -importkeystore -srckeystore "
                f"{path} -destkeystore {path.with_suffix('.p12')} -deststoretype PKCS12` makes a "
                "PKCS12 of it"
            )
        return _blocks(data, self.given.named) if _PEM in data else data


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a TLS connection is made with.

    `authorities`: `None` for the system's. `key`: `None` where it is in the certificate's store.
    `verifies`: whether the server's certificate is looked at; `checks_host`: also its name.
    """

    authorities: Store | None = None
    certificate: Store | None = None
    key: Store | None = None
    key_password: Given | None = None
    checks_host: bool = True
    verifies: bool = True

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that it is read from."""
        stores = (self.authorities, self.certificate, self.key)
        return tuple(store.path for store in stores if store is not None and store.path is not None)

    @property
    def watched_paths(self) -> tuple[Path, ...]:
        """The files that a context follows: these, and that of the system's authorities."""
        if self.authorities is not None:
            return self.paths
        # In a folder of theirs each is looked up when it is needed.
        system = ssl.get_default_verify_paths().cafile
        return self.paths if system is None else (Path(system), *self.paths)

    @property
    def secret_paths(self) -> tuple[Path, ...]:
        """The files that hold a key."""
        holds = self.key or self.certificate
        return (holds.path,) if holds is not None and holds.path is not None else ()


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """Build a context from what the files say now. Raises `Misconfigured`."""
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        # Whatever is named is trusted, as in Java's truststores: an authority between, too.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _trust(context, files.authorities)
    if files.certificate is not None:
        _present(context, files)
    context.check_hostname = files.verifies and files.checks_host
    context.verify_mode = ssl.CERT_REQUIRED if files.verifies else ssl.CERT_NONE
    return context


def certificate_ends_at(files: TlsFiles) -> datetime | None:
    """Give until when the client's certificate holds, if there is one. Raises `Misconfigured`."""
    if files.certificate is None:
        return None
    chain, _ = _chain_and_key(files)
    try:
        return x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc.astimezone(UTC)
    except (ValueError, IndexError):
        named = files.certificate.given.named
        raise Misconfigured(f"{named}: it holds no certificate") from None


class _Context(ssl.SSLContext):
    """A context for which `broker.example.`, as DNS has absolute names, is `broker.example`.

    Certificates have no dot at the end of a name, and TLS' name of a server must not (RFC 6066, 3).
    """

    @override
    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if isinstance(server_hostname, str):
            server_hostname = server_hostname.removesuffix(".")
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _trust(context: ssl.SSLContext, store: Store) -> None:
    data = store.read()
    if _PEM not in data:
        _, own, others = _open_pkcs12(data, store)
        trusted = others if own is None else [own, *others]
        data = b"".join(one.public_bytes(Encoding.PEM) for one in trusted)
    if _CERTIFICATE not in data:
        raise Misconfigured(f"{store.given.named}: it holds no certificate")
    try:
        context.load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(f"{store.given.named}: {_reason(error)}") from None


def _present(context: ssl.SSLContext, files: TlsFiles) -> None:
    assert files.certificate is not None  # noqa: S101  for the type checker
    named = (files.key or files.certificate).given.named
    chain, key = _chain_and_key(files)
    password = files.key_password

    def asked() -> str:
        # Without an answer OpenSSL would ask at the terminal.
        return "" if password is None else password.value

    with _held_file(chain + b"\n" + key) as path:
        try:
            context.load_cert_chain(path, password=asked)
        except (ssl.SSLError, OSError, ValueError) as error:
            if b"ENCRYPTED" in chain + key and "KEY_VALUES_MISMATCH" not in str(error):
                by = "none is given" if password is None else f"{password.named} is wrong"
                message = f"{named}: the key is encrypted, and {by}"
                raise Misconfigured(message) from None
            if "KEY_VALUES_MISMATCH" in str(error) or "key values mismatch" in str(error):
                message = (
                    f"{named}: the key is not that of the certificate in "
                    f"{files.certificate.given.named}"
                )
                raise Misconfigured(message) from None
            raise Misconfigured(f"{named}: {_reason(error)}") from None


def _chain_and_key(files: TlsFiles) -> tuple[bytes, bytes]:
    """Give the client's certificates and key as PEM; the key may be encrypted."""
    assert files.certificate is not None  # noqa: S101  for the type checker
    data = files.certificate.read()
    if _PEM not in data:
        key, certificate, others = _open_pkcs12(data, files.certificate)
        if key is None or certificate is None:
            raise Misconfigured(f"{files.certificate.given.named}: it holds no key")
        chain = [certificate, *others]
        return b"".join(one.public_bytes(Encoding.PEM) for one in chain), key
    if _CERTIFICATE not in data:
        raise Misconfigured(f"{files.certificate.given.named}: it holds no certificate")
    key = data if files.key is None else files.key.read()
    if b"PRIVATE KEY-----" not in key:
        named = (files.key or files.certificate).given.named
        raise Misconfigured(f"{named}: it holds no private key")
    return data, b"" if files.key is None else key


def _open_pkcs12(
    data: bytes, store: Store
) -> tuple[bytes | None, x509.Certificate | None, list[x509.Certificate]]:
    """Open a PKCS12: its key as PEM, its certificate, and all others."""
    password = None if store.password is None else store.password.value.encode()
    try:
        opened = pkcs12.load_pkcs12(data, password)
    except (ValueError, UnsupportedAlgorithm) as error:
        if "password" in str(error).lower() or "mac" in str(error).lower():
            by = "no password is given" if password is None else "its password is wrong"
            raise Misconfigured(f"{store.given.named}: it cannot be opened: {by}") from None
        message = f"{store.given.named}: it is neither PEM nor PKCS12"
        raise Misconfigured(message) from None
    key = opened.key
    pem = (
        None
        if key is None
        else key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    own = None if opened.cert is None else opened.cert.certificate
    return pem, own, [one.certificate for one in opened.additional_certs]


def _blocks(data: bytes, named: str) -> bytes:
    r"""Give the blocks of PEM alone, in lines, as OpenSSL wants them. Raises `Misconfigured`.

    What stands around them says nothing (RFC 7468, 2): comments, a byte order mark, indents. In
    Java's properties a block is one line (KIP-651), in variables ends of lines are often `\n`.
    """
    found = list(_PEM_BLOCK.finditer(data))
    if len(found) != data.count(_PEM):
        raise Misconfigured(f"{named}: a block of PEM in it has no end: it is not written whole")
    return b"".join(map(_in_lines, found))


def _in_lines(block: re.Match[bytes]) -> bytes:
    kind, body = block[1], block[2].replace(b"\\n", b"\n").replace(b"\r", b"\n")
    headers = [header.strip() for header in _PEM_HEADER.findall(body)]
    text = b"".join(_PEM_HEADER.sub(b"", body).split())
    lines = [text[at : at + _LINE_BYTES] for at in range(0, len(text), _LINE_BYTES)]
    begun = [b"-----BEGIN %b-----" % kind, *headers, *([b""] if headers else [])]
    return b"\n".join((*begun, *lines, b"-----END %b-----" % kind, b""))


def stamp_of(paths: tuple[Path, ...]) -> Stamp:
    """Tell files by what changes when they are written or replaced."""
    found = []
    for path in paths:
        try:
            known = path.stat()
        except OSError:
            found.append((str(path), 0, 0, 0))
        else:
            found.append((str(path), known.st_mtime_ns, known.st_size, known.st_ino))
    return tuple(found)


@contextmanager
def _held_file(data: bytes) -> Iterator[str]:
    """Give the path of a file in memory: `ssl` reads keys from files, and none is to be left."""
    held = os.memfd_create("millstream", os.MFD_CLOEXEC)
    try:
        os.write(held, data)
        yield f"/proc/self/fd/{held}"
    finally:
        os.close(held)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return f"it cannot be used ({str(reason).lower().replace('_', ' ')})"
