"""The page on certificates: its commands run, and brokers and clients take what they make."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.broker.security.certificates import TlsFiles, context_of
from millstream.streams.broker.security.kafka_security import read_security
from millstream.streams.settings import Settings

PAGE = Path(__file__).parents[5] / "docs" / "how-to" / "certificates.md"
_FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all commands of the page ran, one after the other."""
    assert shutil.which("openssl"), "install it: apt-get install openssl"
    folder = tmp_path_factory.mktemp("certificates")
    commands = [
        text
        for text in _FENCE.findall(PAGE.read_text(encoding="utf-8"))
        if "export MILLSTREAM" not in text
    ]
    script = "set -euo pipefail\n" + "\n".join(commands)
    ended = subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "broker.crt: OK" in ended.stdout
    assert "DNS:broker-1.example" in ended.stdout
    return folder


def files(folder: Path, **more: Path) -> TlsFiles:
    given = {
        "kafka_security_protocol": "SSL",
        "kafka_ssl_ca_location": folder / "ca.pem",
        "kafka_ssl_certificate_location": folder / "worker.crt",
        "kafka_ssl_key_location": folder / "worker.key",
        **more,
    }
    tls = read_security(Settings(**given)).tls  # type: ignore[arg-type]
    assert tls is not None
    return tls


async def subject_seen(folder: Path, client: ssl.SSLContext, host: str) -> str:
    """Have a broker's side accept the client; gives the name in the client's certificate."""
    broker = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "both.pem")
    broker.load_cert_chain(folder / "broker.pem")
    broker.verify_mode = ssl.CERT_REQUIRED
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        seen.set_result(dict(one[0] for one in certificate["subject"])["commonName"])
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=broker) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=host
        )
        await reader.read()
        writer.close()
        return await asyncio.wait_for(seen, 5)


@pytest.mark.parametrize("host", ["broker-1.example", "localhost", "127.0.0.1"])
async def test_client_and_broker_know_each_other_by_what_the_page_makes(
    made: Path, host: str
) -> None:
    assert await subject_seen(made, context_of(files(made)), host) == "worker"


async def test_a_host_that_the_certificate_does_not_name_is_refused(made: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await subject_seen(made, context_of(files(made)), "broker-2.example")


async def test_who_trusts_both_authorities_takes_what_the_old_one_signed(made: Path) -> None:
    both = files(made, kafka_ssl_ca_location=made / "both.pem")
    assert await subject_seen(made, context_of(both), "localhost") == "worker"


async def test_what_comes_out_of_pkcs12_is_the_same_client(made: Path) -> None:
    again = files(
        made,
        kafka_ssl_certificate_location=made / "from-p12.crt",
        kafka_ssl_key_location=made / "from-p12.key",
    )
    assert await subject_seen(made, context_of(again), "localhost") == "worker"


async def test_a_store_that_the_page_makes_for_java_is_read_as_it_is(made: Path) -> None:
    properties = made / "client.properties"
    properties.write_text(
        "security.protocol=SSL\nssl.truststore.type=PEM\n"
        f"ssl.truststore.location={made / 'ca.pem'}\nssl.keystore.type=PKCS12\n"
        f"ssl.keystore.location={made / 'worker.p12'}\nssl.keystore.password=changeit\n",
        encoding="utf-8",
    )
    tls = read_security(Settings(kafka_config=properties)).tls
    assert tls is not None
    assert await subject_seen(made, context_of(tls), "localhost") == "worker"


def test_keys_are_nobody_elses(made: Path) -> None:
    keys = [*made.glob("*.key"), made / "broker.pem", made / "worker.p12"]
    open_to_all = [key.name for key in keys if key.stat().st_mode & 0o077]
    assert open_to_all == []


def test_jks_is_converted_by_the_command_that_a_worker_says(tmp_path: Path) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text("security.protocol=SSL\nssl.truststore.type=JKS\n", encoding="utf-8")
    with pytest.raises(Misconfigured) as said:
        read_security(Settings(kafka_config=properties))
    (command,) = re.findall(r"`(keytool [^`]+)`", str(said.value))
    assert command in PAGE.read_text(encoding="utf-8")
