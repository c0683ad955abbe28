"""Contexts of TLS, of whatever the certificates stand in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    NoEncryption,
    load_pem_private_key,
    pkcs12,
)

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import (
    Store,
    TlsFiles,
    certificate_ends_at,
    context_of,
)
from millstream.streams.broker.security.given import Given
from tests.making.certificates import Authority, Pair
from tests.making.stores import PASSWORD, store


def pkcs12_of(path: Path, pair: Pair, authority: Authority, password: str | None) -> Path:
    how = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    key = load_pem_private_key(pair.key.read_bytes(), None)
    own = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    data = pkcs12.serialize_key_and_certificates(
        b"own",
        key,  # type: ignore[arg-type]
        own,
        [authority.certificate],
        how,
    )
    path.write_bytes(data)
    return path


def test_authorities_of_a_file_are_the_only_ones(authority: Authority) -> None:
    context = context_of(TlsFiles(authorities=store(authority.path)))
    assert context.cert_store_stats()["x509_ca"] == 1
    assert context.check_hostname


def test_without_a_file_they_are_the_systems() -> None:
    assert context_of(TlsFiles()).cert_store_stats()["x509_ca"] > 10


def test_a_truststore_may_be_a_pkcs12(tmp_path: Path, authority: Authority) -> None:
    path = pkcs12_of(tmp_path / "x.p12", authority.sign("own"), authority, PASSWORD)
    context = context_of(TlsFiles(authorities=store(path, password=PASSWORD)))
    assert context.cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize("form", ["two files", "one file", "encrypted", "pkcs12", "inline"])
def test_the_clients_certificate_and_key_may_stand_in(
    tmp_path: Path, authority: Authority, form: str
) -> None:
    ca = store(authority.path)
    pair = authority.sign("own", password=PASSWORD if form == "encrypted" else None)
    match form:
        case "one file":
            files = TlsFiles(ca, store(pair.both))
        case "pkcs12":
            path = pkcs12_of(tmp_path / "x.p12", pair, authority, PASSWORD)
            files = TlsFiles(ca, store(path, password=PASSWORD))
        case "inline":  # as Java's properties have it, in one line
            text = pair.both.read_text().replace("\n", "")
            files = TlsFiles(ca, Store(Given(text, "X"), is_inline=True))
        case _:
            password = Given(PASSWORD, "PW") if form == "encrypted" else None
            files = TlsFiles(ca, store(pair.certificate), store(pair.key), password)
    context_of(files)
    ends = certificate_ends_at(files)
    assert ends is not None
    assert timedelta(hours=23) < ends - datetime.now(UTC) <= timedelta(days=1)


def wrong_files(tmp_path: Path, authority: Authority, what: str) -> TlsFiles:
    ca, pair = store(authority.path), authority.sign("own")
    odd = tmp_path / "odd"
    content = {
        "jks": b"\xfe\xed\xfe\xed\0\0\0\2",
        "no certificate": b"-----BEGIN X-----\nAAAA\n-----END X-----\n",
        "half": authority.path.read_bytes() + authority.path.read_bytes()[:200],
        "garbage": b"\x30\x03abc",
        "empty": b"",
    }
    if what in {*content, "missing"}:
        if what in content:
            odd.write_bytes(content[what])
        return TlsFiles(store(odd))
    if what == "pkcs12's password":
        path = pkcs12_of(tmp_path / "x.p12", pair, authority, PASSWORD)
        return TlsFiles(ca, store(path, password="no"))  # noqa: S106
    locked = authority.sign("locked", password=PASSWORD)
    given = {
        "another's key": (store(pair.certificate), store(authority.sign("b").key, "KEY"), None),
        "no key": (store(pair.certificate), None, None),
        "wrong password": (store(locked.certificate), store(locked.key), Given("no", "PASSWORD")),
        "no password": (store(locked.certificate), store(locked.key), None),
    }
    return TlsFiles(ca, *given[what])


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("jks", "keytool -importkeystore"),
        ("no certificate", "it holds no certificate"),
        ("half", "a block of PEM in it has no end: it is not written whole"),
        ("garbage", "neither PEM nor PKCS12"),
        ("missing", "there is no file"),
        ("empty", "is empty"),
        ("another's key", "KEY: the key is not that of the certificate in X"),
        ("no key", "it holds no private key"),
        ("wrong password", "encrypted, and PASSWORD is wrong"),
        ("no password", "encrypted, and none is given"),
        ("pkcs12's password", "its password is wrong"),
    ],
)
def test_files_that_will_not_do_are_told_in_one_line(
    tmp_path: Path, authority: Authority, what: str, words: str
) -> None:
    with pytest.raises(Misconfigured) as told:
        context_of(wrong_files(tmp_path, authority, what))
    assert words in str(told.value)
    assert "\n" not in str(told.value)
