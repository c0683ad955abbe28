"""Brokers with TLS and users: what lets a client in, and what is said where it is not let in."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.gateway.checks.services import check_kafka
from millstream.gateway.demo.upstream_environment import upstream_environment
from millstream.gateway.installation import HOME
from millstream.schemas.errors import MillstreamError, Misconfigured
from millstream.schemas.topics import REQUESTS
from millstream.streams.broker.clients import (
    committed_consumer,
    idempotent_producer,
    raw_client,
    transactional_producer,
)
from millstream.streams.broker.diagnosis.reach import require_reach
from millstream.streams.broker.security.live import live_security
from millstream.streams.broker.topic_admin import ensure_topics, topic_drift
from millstream.streams.settings import Settings, child_environment
from tests.harness.secure_kafka import PASSWORD, SecureKafka, secure_kafka, token
from tests.making.certificates import Authority
from tests.support import eventually

WRONG = "no-password"
UPSTREAM = HOME / "docs" / "examples" / "upstream.py"
Given = dict[str, Any]


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureKafka]:
    async with secure_kafka(tmp_path_factory.mktemp("secure")) as running:
        yield running


@pytest.fixture
def base(tmp_path: Path) -> Settings:
    return Settings(namespace=f"t-{tmp_path.name}"[:40], partitions=1, data_dir=tmp_path)


def own_certificate(kafka: SecureKafka) -> Given:
    pair = kafka.authority.sign("client")
    return kafka.tls(ssl_certificate_location=pair.certificate, ssl_key_location=pair.key)


def encrypted_key(kafka: SecureKafka) -> Given:
    pair = kafka.authority.sign("locked", password=PASSWORD)
    return kafka.tls(ssl_certificate_location=pair.both, ssl_key_password=PASSWORD)


def token_file(kafka: SecureKafka, text: str) -> Given:
    path = kafka.folder / "token"
    path.write_text(f"{text}\n")
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauthbearer_token_endpoint_url": f"file://{path}",
    }


def properties(kafka: SecureKafka) -> Given:
    path = kafka.folder / "client.properties"
    path.write_text(
        "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-256\n"
        f"ssl.truststore.type=PEM\nssl.truststore.location={kafka.authority.path}\n"
        "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n"
        f'  username="ada" password="{PASSWORD}";\n'
    )
    return {"config": path}


LET_IN: dict[str, tuple[str, Callable[[SecureKafka], Given]]] = {
    "plaintext": ("PLAIN", lambda _: {}),
    "TLS": ("TLS", lambda kafka: kafka.tls()),
    "TLS, whatever the host": (
        "MISNAMED",
        lambda kafka: kafka.tls(ssl_endpoint_identification_algorithm="none"),
    ),
    "client certificate": ("MUTUAL", own_certificate),
    "client certificate, encrypted key": ("MUTUAL", encrypted_key),
    "SCRAM-SHA-512": ("SCRAM", lambda kafka: kafka.scram()),
    "SCRAM-SHA-256": ("SCRAM", lambda kafka: kafka.scram(sasl_mechanism="SCRAM-SHA-256")),
    "PLAIN": ("CLEAR", lambda kafka: kafka.plain()),
    "token": ("CLEAR", lambda kafka: token_file(kafka, token())),
    "file of properties": ("SCRAM", properties),
}


@pytest.mark.parametrize("case", LET_IN)
async def test_every_kind_of_client_is_let_in(
    kafka: SecureKafka, base: Settings, case: str
) -> None:
    listener, given = LET_IN[case]
    settings = kafka.settings(base, listener, **given(kafka))
    await ensure_topics(settings, [REQUESTS])
    assert await topic_drift(settings, [REQUESTS]) == ()
    assert await require_reach(settings) == ()
    topic = settings.topic(REQUESTS.name)
    async with AsyncExitStack() as stack:
        transactions = transactional_producer(settings, f"{settings.namespace}-x")
        for client in (producer := idempotent_producer(settings), transactions):
            await client.start()
            stack.push_async_callback(client.stop)
        await producer.send_and_wait(topic, b"one", partition=0)
        async with transactions.transaction():
            await transactions.send_and_wait(topic, b"two", partition=0)
        consumer = committed_consumer(settings)
        stack.push_async_callback(consumer.stop)
        await consumer.start()
        consumer.assign([TopicPartition(topic, 0)])
        assert [(await consumer.getone()).value for _ in range(2)] == [b"one", b"two"]


def foreign_certificate(kafka: SecureKafka) -> Given:
    pair = Authority(kafka.folder / "other", "other").sign("client")
    return kafka.tls(ssl_certificate_location=pair.certificate, ssl_key_location=pair.key)


def expired_certificate(kafka: SecureKafka) -> Given:
    pair = kafka.authority.sign("client-expired", ends_in=timedelta(days=-1))
    return kafka.tls(ssl_certificate_location=pair.certificate, ssl_key_location=pair.key)


def odd_file(kafka: SecureKafka, content: bytes | None) -> Given:
    path = kafka.folder / "odd"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    return kafka.scram(sasl_password_file=path)


NOT_LET_IN: dict[str, tuple[str, Callable[[SecureKafka], Given], str]] = {
    "a wrong password": (
        "SCRAM",
        lambda kafka: kafka.scram(sasl_password=WRONG),
        "it refuses user 'ada' or its password by SCRAM-SHA-512: check MILLSTREAM_KAFKA_SASL_USER",
    ),
    "a wrong password of PLAIN": (
        "CLEAR",
        lambda kafka: kafka.plain(sasl_password=WRONG),
        "it refuses user 'ada' or its password by PLAIN",
    ),
    "a token that is none": (
        "CLEAR",
        lambda kafka: token_file(kafka, "not-a-token"),
        "it refuses the token",
    ),
    "a token that has expired": (
        "CLEAR",
        lambda kafka: token_file(kafka, token(lasts_s=-60)),
        "s ago: have it renewed",
    ),
    "an expired certificate": (
        "EXPIRED",
        lambda kafka: kafka.tls(),
        "the broker's certificate has expired: have it renewed",
    ),
    "a certificate of another authority": (
        "FOREIGN",
        lambda kafka: kafka.tls(),
        "name its certificate in MILLSTREAM_KAFKA_SSL_CA_LOCATION",
    ),
    "a certificate of another host": (
        "MISNAMED",
        lambda kafka: kafka.tls(),
        "the broker's certificate is not for 127.0.0.1 but for kafka.example",
    ),
    "no certificate of the client": (
        "MUTUAL",
        lambda kafka: kafka.tls(),
        "it wants a certificate of the client: set MILLSTREAM_KAFKA_SSL_CERTIFICATE_LOCATION",
    ),
    "a certificate of the client that is foreign": (
        "MUTUAL",
        foreign_certificate,
        "it refuses the client's certificate",
    ),
    "a certificate of the client that has expired": (
        "MUTUAL",
        expired_certificate,
        "which has expired: renew MILLSTREAM_KAFKA_SSL_CERTIFICATE_LOCATION",
    ),
    "a mechanism that the broker lacks": (
        "SCRAM",
        lambda kafka: kafka.scram(sasl_mechanism="PLAIN"),
        "its mechanisms are OAUTHBEARER, SCRAM-SHA-256, SCRAM-SHA-512",
    ),
    "TLS at a port without it": ("PLAIN", lambda kafka: kafka.tls(), "does not speak TLS"),
    "no TLS at a port of TLS": ("TLS", lambda _: {}, "its port speaks TLS, and PLAINTEXT does not"),
    "no user at a port of users": ("CLEAR", lambda _: {}, "wants a user, by OAUTHBEARER or PLAIN"),
    "a user at a port of none": ("TLS", lambda kafka: kafka.scram(), "its port takes no users"),
    "a listener that advertises another host": (
        "MOVED",
        lambda _: {},
        "broker 1 is at kafka-0.nowhere.invalid",
    ),
    "a secret file that is missing": (
        "SCRAM",
        lambda kafka: odd_file(kafka, None),
        "MILLSTREAM_KAFKA_SASL_PASSWORD_FILE: there is no file",
    ),
    "a secret file that is empty": (
        "SCRAM",
        lambda kafka: odd_file(kafka, b"\n"),
        "is empty: write the secret to it",
    ),
}


@pytest.mark.parametrize("case", NOT_LET_IN)
async def test_who_is_not_let_in_is_told_why_in_one_line_at_the_start_and_by_doctor(
    kafka: SecureKafka, base: Settings, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, given, words = NOT_LET_IN[case]
    settings = kafka.settings(base, listener, **given(kafka))
    with pytest.raises(MillstreamError) as told:
        await require_reach(settings)
    line = str(told.value)
    assert words in line
    assert "\n" not in line
    for name, value in child_environment(settings).items():
        monkeypatch.setenv(name, value)
    found = [finding for finding in await check_kafka() if finding.level == "wrong"]
    assert [words in finding.told for finding in found][:1] == [True]
    for secret in (PASSWORD, WRONG, "not-a-token", "eyJ"):
        assert secret not in f"{line} {found} {settings!r} {told.value.__cause__!r}"


async def test_one_bad_address_among_several_is_named_and_the_others_serve(
    kafka: SecureKafka, base: Settings
) -> None:
    good = kafka.settings(base, "SCRAM", **kafka.scram())
    bad = f"{good.kafka},127.0.0.1:1,nowhere.invalid:9092"
    found = await require_reach(good.model_copy(update={"kafka": bad}))
    assert [line.split(": ")[0] for line in sorted(found)] == [
        "127.0.0.1:1",
        "nowhere.invalid:9092",
    ]


async def test_a_secret_that_all_may_read_is_told(kafka: SecureKafka, base: Settings) -> None:
    file = kafka.folder / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o644)
    settings = kafka.settings(base, "SCRAM", **kafka.scram(sasl_password_file=file))
    assert await require_reach(settings) == ()
    assert [f"chmod 600 {file}" in line for line in live_security(settings).warnings()] == [True]
    file.chmod(0o600)
    assert live_security(settings).warnings() == ()


@pytest.mark.parametrize("mechanism", ["PLAIN", "OAUTHBEARER"])
async def test_a_log_at_level_debug_shows_no_secret(
    kafka: SecureKafka, base: Settings, caplog: pytest.LogCaptureFixture, mechanism: str
) -> None:
    caplog.set_level("DEBUG")
    given = kafka.plain() if mechanism == "PLAIN" else token_file(kafka, token())
    assert await require_reach(kafka.settings(base, "CLEAR", **given)) == ()
    assert "(hidden)" in caplog.text
    assert PASSWORD not in caplog.text
    assert "Bearer" not in caplog.text


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Any]:
    client = raw_client(settings)
    await client.bootstrap()
    try:
        yield client
    finally:
        await client.close()


async def test_a_certificate_that_is_renewed_counts_from_the_next_connection_on(
    kafka: SecureKafka, base: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    first = kafka.authority.sign("renewed")
    given = kafka.tls(ssl_certificate_location=first.certificate, ssl_key_location=first.key)
    settings = kafka.settings(base, "MUTUAL", **given)
    live = live_security(settings)
    async with connected(settings) as client:
        _, before = live.now()
        old_key = first.key.read_bytes()
        kafka.authority.sign("renewed")
        new_key = first.key.read_bytes()
        first.key.write_bytes(old_key)  # the certificate is new, and its key is not yet
        for _ in range(3):
            assert live.now()[1] is before
        assert [line.message.count("the key is not that") for line in caplog.records] == [1]
        first.key.write_bytes(new_key)
        _, after = live.now()
        assert after is not before
        for conn in client._conns.values():
            conn.close()
        assert await client.ready(1)


async def test_a_password_that_is_changed_counts_from_the_next_connection_on(
    kafka: SecureKafka, base: Settings
) -> None:
    file = kafka.folder / "changing"
    file.write_text(PASSWORD)
    settings = kafka.settings(base, "SHORT", **kafka.plain(sasl_password_file=file))
    async with connected(settings) as client:
        assert await client.ready(1)
        file.write_text("not-yet-the-new-one")
        # Its session ends: another connection is made, and refused.
        await eventually(lambda: _refused(client, settings), timeout_s=15)
        (told,) = live_security(settings).told()
        assert "it refuses user 'ada'" in told
        file.write_text(f"{PASSWORD}\n")
        await eventually(lambda: client.ready(1), timeout_s=15)
        assert live_security(settings).told() == []


async def _refused(client: Any, settings: Settings) -> bool:
    return not await client.ready(1) and bool(live_security(settings).told())


@pytest.mark.slow
async def test_sends_go_on_without_an_error_while_sessions_end(
    kafka: SecureKafka, base: Settings
) -> None:
    settings = kafka.settings(base, "SHORT", **kafka.plain())
    await ensure_topics(settings, [REQUESTS])
    async with idempotent_producer(settings) as producer:
        loop = producer._loop
        ends, sent, conns = loop.time() + 11, 0, set()
        while loop.time() < ends:
            await producer.send_and_wait(settings.topic(REQUESTS.name), b"x", partition=0)
            conns |= {id(conn) for conn in producer.client._conns.values()}
            sent += 1
    assert sent > 100
    assert len(conns) >= 3


@pytest.mark.parametrize("how", ["scram", "certificate", "plaintext"])
async def test_the_upstream_program_publishes_by_what_the_demonstration_tells_it(
    kafka: SecureKafka, base: Settings, how: str
) -> None:
    listener, given = {
        "scram": ("SCRAM", kafka.scram()),
        "certificate": ("MUTUAL", own_certificate(kafka)),
        "plaintext": ("PLAIN", {}),
    }[how]
    here = kafka.settings(base, listener, **given)
    await ensure_topics(here, [REQUESTS])
    topic = here.topic(REQUESTS.name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(UPSTREAM), here.kafka, topic),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=upstream_environment(here),
    )
    lines = b'{"user_id": "ada", "input": "Name three planets."}\n'
    told, errors = await asyncio.wait_for(process.communicate(lines), 30)
    assert told.decode().split() == [f"{topic}-0-0"], errors.decode()


async def test_a_demonstration_by_tokens_is_refused_in_words(
    kafka: SecureKafka, base: Settings
) -> None:
    here = kafka.settings(base, "CLEAR", **token_file(kafka, token()))
    with pytest.raises(Misconfigured, match="knows no tokens"):
        upstream_environment(here)
