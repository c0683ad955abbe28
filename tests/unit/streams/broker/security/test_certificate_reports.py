"""What went wrong elsewhere with certificates, tried on ours.

Public reports, and what went wrong there:

- rstudio/rsconnect-python#177, nabla-c0d3/sslyze#670: a bundle of authorities with a name in UTF-8
  as a comment, an error of Python's, and no word on the file.
- openssl/openssl#6281, moby/moby#36405: a byte order mark, as Windows' editors write it.
- confluentinc/librdkafka#1814, fede1024/rust-rdkafka#814: an authority between is trusted by Java's
  client, and by OpenSSL only where the root is there, too.
- confluentinc/librdkafka#4348, redpanda-data/helm-charts#575, kafka-python-ng/kafka-python-ng#133:
  brokers are called `broker.svc.cluster.local.`, and no certificate is.
- confluentinc/librdkafka#3225: of a chain in PEM, only the first certificate is sent.
- openssl/openssl#12840, #14790: a PKCS12 with old ciphers is told as a wrong password.
- ctera/ctera-python-sdk#128, helei112g/payment#108: the PEM stands where a path is wanted: "file
  name too long", and the key is in the log.
- Kubernetes' secrets are links to `..data`: a pair is replaced by one rename.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import Store, TlsFiles, context_of
from millstream.streams.broker.security.given import Given
from millstream.streams.broker.security.live import LiveSecurity
from millstream.streams.settings import Settings
from tests.making.certificates import Authority, Pair
from tests.making.stores import PASSWORD, store


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@asynccontextmanager
async def server(pair: Pair, trusted: Path | None = None) -> AsyncIterator[int]:
    """Serve TLS with a pair, and say of each client how many certificates it shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.both)
    if trusted is not None:
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"in")
        writer.close()

    serving = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with serving:
        yield serving.sockets[0].getsockname()[1]


async def said_to(files: TlsFiles, name: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context_of(files), server_hostname=name
    )
    try:
        return await reader.read(2)
    finally:
        writer.close()


COMMENTED: dict[str, Callable[[bytes], bytes]] = {
    "a name in UTF-8": lambda pem: "# NetLock Arany (Főtanúsítvány)\n".encode() + pem,
    "a name in Latin-1": lambda pem: b"# Jos\xe9\n" + pem,
    "a byte order mark": lambda pem: b"\xef\xbb\xbf" + pem,
    "ends of lines of Windows": lambda pem: pem.replace(b"\n", b"\r\n"),
    "no end of a line between two": lambda pem: pem.replace(b"-----\n-----", b"----------"),
    "indents of YAML": lambda pem: b"".join(b"    " + line for line in pem.splitlines(True)),
    "ends of lines as two signs": lambda pem: pem.replace(b"\n", b"\\n"),
    "attributes of a bag": lambda pem: b"Bag Attributes\n    friendlyName: ca: 1\n" + pem,
}


@pytest.mark.parametrize("form", COMMENTED)
def test_whatever_stands_around_certificates_each_of_them_counts(
    tmp_path: Path, authority: Authority, form: str
) -> None:
    two = authority.path.read_bytes() + Authority(tmp_path / "b").path.read_bytes()
    bundle = written(tmp_path / "bundle", COMMENTED[form](two))
    assert context_of(TlsFiles(store(bundle))).cert_store_stats()["x509_ca"] == 2
    own = authority.sign("own")
    pair = [
        written(path, COMMENTED[form](path.read_bytes())) for path in (own.certificate, own.key)
    ]
    context_of(TlsFiles(store(bundle), *map(store, pair)))


async def test_an_authority_between_is_trusted_where_it_is_named_alone(
    tmp_path: Path, authority: Authority
) -> None:
    between = authority.between(tmp_path / "between")
    async with server(between.sign("broker")) as port:
        assert await said_to(TlsFiles(store(between.path)), "localhost", port) == b"in"


async def test_a_name_with_a_dot_at_its_end_is_the_name_without(authority: Authority) -> None:
    async with server(authority.sign("broker", hosts=("kafka.example",))) as port:
        files = TlsFiles(store(authority.path))
        assert await said_to(files, "kafka.example.", port) == b"in"
        with pytest.raises(ssl.SSLCertVerificationError):
            await said_to(files, "other.example.", port)


async def test_a_wildcard_is_for_one_label(authority: Authority) -> None:
    files = TlsFiles(store(authority.path))
    async with server(authority.sign("broker", hosts=("*.kafka.example",))) as port:
        assert await said_to(files, "b-1.kafka.example", port) == b"in"
        with pytest.raises(ssl.SSLCertVerificationError):
            await said_to(files, "a.b.kafka.example", port)


async def test_the_subject_counts_only_where_there_are_no_names(authority: Authority) -> None:
    files = TlsFiles(store(authority.path))
    async with server(authority.sign("kafka.example", hosts=())) as port:
        assert await said_to(files, "kafka.example", port) == b"in"
    async with server(authority.sign("kafka.example", hosts=("other.example",))) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await said_to(files, "kafka.example", port)


async def test_the_whole_chain_of_a_client_is_sent(tmp_path: Path, authority: Authority) -> None:
    between = authority.between(tmp_path / "between")
    own = between.sign("client")
    chain = written(tmp_path / "chain", own.certificate.read_bytes() + between.path.read_bytes())
    inline = Store(Given(own.key.read_text() + chain.read_text(), "X"), is_inline=True)
    async with server(authority.sign("broker"), trusted=authority.path) as port:
        for certificate, key in ((store(chain), store(own.key)), (inline, None)):
            files = TlsFiles(store(authority.path), certificate, key)
            assert await said_to(files, "localhost", port) == b"in"


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)  # noqa: S607  by PATH


@pytest.mark.parametrize("kind", ["old ciphers", "no password", "a password beyond ASCII"])
def test_a_pkcs12_as_others_write_it_is_read(
    tmp_path: Path, authority: Authority, kind: str
) -> None:
    own, path = authority.sign("own"), tmp_path / "own.p12"
    password = {"old ciphers": PASSWORD, "no password": "", "a password beyond ASCII": "pässwörd"}
    old = ("-legacy",) if kind == "old ciphers" else ()
    openssl(
        *("pkcs12", "-export", *old, "-in", own.certificate, "-inkey", own.key),
        *("-passout", f"pass:{password[kind]}", "-out", path),
    )
    given = store(path, password=password[kind] or None)
    context_of(TlsFiles(store(authority.path), given))
    # As Java does, it takes what a store has for trusted, its own certificate too.
    assert context_of(TlsFiles(given)).cert_store_stats()["x509"] == 1


@pytest.mark.parametrize("given", [None, "no"])
def test_a_key_that_is_encrypted_is_told_also_where_it_stands_with_its_certificate(
    authority: Authority, given: str | None
) -> None:
    locked = authority.sign("locked", password=PASSWORD)
    password = None if given is None else Given(given, "PASSWORD")
    words = "none is given" if given is None else "PASSWORD is wrong"
    with pytest.raises(Misconfigured, match=f"CERT: the key is encrypted, and {words}"):
        context_of(TlsFiles(store(authority.path), store(locked.both, "CERT"), None, password))


def test_old_encrypted_keys_are_read_and_parameters_passed_over(
    tmp_path: Path, authority: Authority
) -> None:
    own, old = authority.sign("own"), tmp_path / "old.key"
    openssl("ec", "-in", own.key, "-aes256", "-passout", f"pass:{PASSWORD}", "-out", old)
    assert b"DEK-Info" in old.read_bytes()
    parameters = tmp_path / "parameters"
    openssl("ecparam", "-name", "prime256v1", "-out", parameters)
    both = written(tmp_path / "both", parameters.read_bytes() + old.read_bytes())
    password = Given(PASSWORD, "PW")
    context_of(TlsFiles(store(authority.path), store(own.certificate), store(both), password))


def test_pem_in_the_place_of_a_path_is_told_and_shown_to_nobody(authority: Authority) -> None:
    own = authority.sign("own")
    for value in (own.key.read_text(), own.key.read_text().replace("\n", "\\n"), "x" * 5000):
        with pytest.raises(Misconfigured) as told:
            context_of(TlsFiles(store(authority.path), store(own.certificate), store(value, "KEY")))
        assert str(told.value) == "KEY: it must name a file, and seems to be what such a file holds"


def test_a_file_that_is_written_in_part_is_no_file(tmp_path: Path, authority: Authority) -> None:
    whole = authority.path.read_bytes() + Authority(tmp_path / "b").path.read_bytes()
    half = written(tmp_path / "half", whole[: len(whole) * 3 // 4])
    with pytest.raises(Misconfigured, match="X: a block of PEM in it has no end"):
        context_of(TlsFiles(store(half)))


def test_a_pair_that_kubernetes_replaces_counts_whole(tmp_path: Path, authority: Authority) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()

    def put(name: str) -> None:
        folder = mount / f"..{name}"
        folder.mkdir()
        pair = authority.sign(name)
        (folder / "tls.crt").write_bytes(pair.certificate.read_bytes())
        (folder / "tls.key").write_bytes(pair.key.read_bytes())
        (mount / "..data_tmp").symlink_to(folder.name)
        (mount / "..data_tmp").rename(mount / "..data")

    put("first")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(Path("..data") / name)
    settings = Settings(
        kafka_security_protocol="SSL",
        kafka_ssl_ca_location=authority.path,
        kafka_ssl_certificate_location=mount / "tls.crt",
        kafka_ssl_key_location=mount / "tls.key",
    )
    live = LiveSecurity(settings)
    _, before = live.now()
    assert live.now()[1] is before
    put("second")
    assert live.now()[1] is not before
    assert live.told() == []


def test_a_certificate_of_the_same_size_and_time_in_another_file_counts(
    authority: Authority,
) -> None:
    own = authority.sign("own")
    settings = Settings(
        kafka_security_protocol="SSL",
        kafka_ssl_ca_location=authority.path,
        kafka_ssl_certificate_location=own.both,
    )
    live = LiveSecurity(settings)
    _, before = live.now()
    known = own.both.stat()
    other = authority.sign("own", file="new").both
    os.utime(other, ns=(known.st_atime_ns, known.st_mtime_ns))
    other.rename(own.both)
    assert live.now()[1] is not before


def test_the_systems_authorities_may_change_too(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = written(tmp_path / "system", authority.path.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    live = LiveSecurity(Settings(kafka_security_protocol="SSL"))
    _, before = live.now()
    assert before is not None
    assert live.now()[1] is before
    new = Authority(tmp_path / "new").path.read_bytes()
    written(tmp_path / "next", system.read_bytes() + new).rename(system)
    _, after = live.now()
    assert after is not None
    assert after.cert_store_stats()["x509_ca"] == before.cert_store_stats()["x509_ca"] + 1


def test_a_certificate_in_der_is_told(tmp_path: Path, authority: Authority) -> None:
    der = written(tmp_path / "der", authority.certificate.public_bytes(Encoding.DER))
    with pytest.raises(Misconfigured, match="X: it is neither PEM nor PKCS12"):
        context_of(TlsFiles(store(der)))
