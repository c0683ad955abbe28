"""Authorities, and certificates that they sign, as files of PEM in a test's folder."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Pair"]

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as files: each by itself, and both in `both`."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """Signs certificates; its own stands in `path`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.certificate = _signed(
            self._name, self._name, self._key, self._key.public_key(), ends_in=30 * _DAY, ca=True
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def between(self, folder: Path, name: str = "between") -> Authority:
        """Make an authority whose certificate this one signs."""
        made = Authority(folder, name)
        made.certificate = _signed(
            made._name, self._name, self._key, made._key.public_key(), ends_in=30 * _DAY, ca=True
        )
        made.path.write_bytes(made.certificate.public_bytes(Encoding.PEM))
        return made

    def sign(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        ends_in: timedelta = _DAY,
        password: str | None = None,
        file: str | None = None,
    ) -> Pair:
        """Sign a certificate for a name and hosts; files are overwritten, keys at mode 0600."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(
            _named(name), self._name, self._key, key.public_key(), hosts=hosts, ends_in=ends_in
        )
        how = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        pem = certificate.public_bytes(Encoding.PEM)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
        folder, stem = self._folder, file or name
        pair = Pair(folder / f"{stem}.crt", folder / f"{stem}.key", folder / f"{stem}.pem")
        pair.certificate.write_bytes(pem)
        for path, data in ((pair.key, private), (pair.both, private + pem)):
            path.touch(mode=0o600)
            path.write_bytes(data)
        return pair


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    issuers_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    *,
    hosts: tuple[str, ...] = (),
    ends_in: timedelta,
    ca: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    begun = now - 30 * _DAY
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begun)
        .not_valid_after(now + ends_in)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuers_key, hashes.SHA256())


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
