"""An authority of a data folder's own, and the certificates that it gives its brokers.

    ca-key.pem ──signs──> ca.pem (ten years)         what clients and brokers trust
                   └────> kafka-<id>.pem (90 days)   a broker's key and certificate

All are PEM, which Kafka takes as key store and trust store (KIP-651). Keys are of P-256.
"""

import asyncio
import datetime as dt
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from millstream.infra.secure.files import write_private

__all__ = ["LIFETIME", "Authority", "expires_at", "is_due", "is_shown", "now"]

LIFETIME = dt.timedelta(days=90)
"""How long a broker's certificate holds; it is renewed once a third of that is left."""

_AUTHORITY_LIFETIME = dt.timedelta(days=3650)
_ANSWER_MAX_S = 5.0
# Clocks differ: one that is behind must not find a certificate that does not hold yet.
_BACKDATED = dt.timedelta(hours=1)


class Authority:
    """Signs certificates; made by `Authority.of`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Take a certificate and the key that it is of."""
        self._certificate = certificate
        self._key = key

    @classmethod
    def of(cls, folder: Path, now: dt.datetime) -> "Authority":
        """Give a folder's authority; it is made there if the folder has none.

        The key is written first: a crash in between leaves no certificate that is trusted.
        """
        at, key_at = folder / "ca.pem", folder / "ca-key.pem"
        if at.exists() and key_at.exists():
            key = serialization.load_pem_private_key(key_at.read_bytes(), password=None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  as it was written
            return cls(x509.load_pem_x509_certificate(at.read_bytes()), key)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Millstream's launcher")
        built = (
            _certificate(name, name, key.public_key(), now, _AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(key_at, _key_text(key))
        write_private(at, _text(built))
        return cls(built, key)

    def issue(
        self,
        name: str,
        hosts: Iterable[str],
        now: dt.datetime,
        lifetime: dt.timedelta = LIFETIME,
    ) -> str:
        """Give a new key and its certificate, as the text of a PEM key store.

        It holds for servers at `hosts` (names and addresses) and for clients.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._certificate.subject
        public = self._key.public_key()
        built = (
            _certificate(_name(name), issuer, key.public_key(), now, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return _key_text(key) + _text(built)

    def signed(self, store: str) -> bool:
        """Tell whether the certificate of a key store is of this authority."""
        try:
            _of(store).verify_directly_issued_by(self._certificate)
        except (InvalidSignature, ValueError):
            return False
        return True


def now() -> dt.datetime:
    """Give the time by which certificates are made."""
    return dt.datetime.now(dt.UTC)


def expires_at(store: str) -> dt.datetime:
    """Tell when the certificate of a key store expires. Raises `ValueError` where there is none."""
    return _of(store).not_valid_after_utc


def is_due(store: str, now: dt.datetime) -> bool:
    """Tell whether less than a third of a certificate's life is left: time to renew it."""
    certificate = _of(store)
    ends = certificate.not_valid_after_utc
    return ends - now < (ends - certificate.not_valid_before_utc) / 3


async def is_shown(address: str, folder: Path, store: str) -> bool:
    """Tell whether the server at host:port shows the certificate of a key store now."""
    host, _, port = address.rpartition(":")
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    try:
        async with asyncio.timeout(_ANSWER_MAX_S):
            _, writer = await asyncio.open_connection(host, int(port), ssl=trusting)
    except (OSError, TimeoutError):
        return False
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bool(shown == _of(store).public_bytes(serialization.Encoding.DER))


def _of(store: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(store.encode())[0]


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    # Kafka reads keys as PKCS #8.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
