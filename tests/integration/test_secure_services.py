"""`up --secure`: who gets in, who does not, and certificates and passwords that change."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.events import AgentRequest
from millstream.schemas.topics import BASE_TOPICS, REQUESTS
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from tests import making
from tests.services.launcher import PROJECT
from tests.services.secure import ADMIN, SecureServices, secure_services
from tests.services.users import acting_as
from tests.support import eventually

ROLES = ("upstream", "product", "client", "worker", "auditor", "operator")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServices]:
    """A secure Kafka and Redis of these tests' own: they change its passwords."""
    with secure_services(tmp_path_factory.mktemp("a folder, with: odd [name]") / "data") as running:
        yield running


async def create(secure: SecureServices, topic: str) -> None:
    admin = AIOKafkaAdminClient(**secure.aiokafka(ADMIN))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()


def serial(secure: SecureServices) -> str:
    """Give the certificate that the broker shows to whoever connects now."""
    host, port = secure.kafka.split(":")
    context = ssl.create_default_context(cafile=str(secure.authority))
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        found = connection.getpeercert()
    assert found is not None
    return str(found["serialNumber"])


def rotate(secure: SecureServices, *options: str) -> str:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "millstream.infra", "rotate"),
            *("--data", str(secure.data), *options),
        ],
        cwd=PROJECT,
        env=dict(os.environ),  # noqa: TID251  what a child inherits
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


async def test_the_admin_may_do_everything_and_a_role_nothing_unasked(
    secure: SecureServices,
) -> None:
    await create(secure, "asked")
    async with AIOKafkaProducer(**secure.aiokafka(ADMIN)) as producer:
        await producer.send_and_wait("asked", b"value")
    for role in ROLES:
        async with AIOKafkaProducer(**secure.aiokafka(role)) as producer:
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait("asked", b"value")


async def test_who_may_only_read_reads_over_a_bus_and_is_told_what_it_may_not(
    secure: SecureServices,
) -> None:
    base = Settings(
        kafka=secure.kafka, namespace="reads", kafka_config=secure.properties_file(ADMIN)
    )
    await ensure_topics(base, BASE_TOPICS)
    asks, reads = (acting_as(base, user) for user in ("upstream", "auditor"))
    async with KafkaBus(asks) as upstream, KafkaBus(reads) as auditor:
        async with auditor.tail((REQUESTS,)) as coming:
            await upstream.publish(making.request(request_id="r1"))
            async for delivery in coming:
                assert isinstance(delivery.event, AgentRequest)
                assert delivery.event.request_id == "r1"
                break
        for attempt in (
            auditor.publish(making.request()),
            auditor.publish_batch([making.request()]),
        ):
            with pytest.raises(ServiceUnavailable, match="AuthorizationFailed"):
                await attempt


@pytest.mark.parametrize(
    "wrong",
    [
        {"sasl_plain_password": "guessed"},
        {"sasl_plain_username": "nobody"},
        {"sasl_mechanism": "PLAIN"},
        {"security_protocol": "PLAINTEXT", "sasl_mechanism": None, "ssl_context": None},
        {"ssl_context": ssl.create_default_context()},
    ],
    ids=["password", "user", "mechanism", "no-tls", "not-trusted"],
)
async def test_who_is_not_known_or_trusts_nobody_gets_nowhere(
    secure: SecureServices, wrong: dict[str, object]
) -> None:
    options = secure.aiokafka("worker") | wrong | {"request_timeout_ms": 3000}
    if options["sasl_mechanism"] is None:
        options = {
            name: one for name, one in options.items() if not name.startswith(("sasl", "ssl"))
        }
    admin = AIOKafkaAdminClient(**options)
    try:
        with pytest.raises((KafkaError, TimeoutError)):
            async with asyncio.timeout(8):
                await admin.start()
    finally:
        await admin.close()


async def test_controllers_take_nobody_without_the_brokers_password(
    secure: SecureServices,
) -> None:
    state = json.loads((secure.data / "launcher.json").read_text())
    port = state["ports"]["kafka-1-controller"]
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=3000)
    try:
        with pytest.raises((KafkaError, TimeoutError)):
            async with asyncio.timeout(8):
                await admin.start()
    finally:
        await admin.close()


def test_no_file_or_command_line_of_the_services_tells_a_secret(secure: SecureServices) -> None:
    users = [one.name for one in secure.credentials.iterdir() if one.is_dir()]
    passwords = [secure.password(one) for one in users]
    passwords += [secure.redis_password(one) for one in users]
    private = [secure.credentials, secure.data / "kafka-1" / "server.properties"]
    for file in secure.data.rglob("*"):
        if not file.is_file() or any(file.is_relative_to(one) for one in private):
            continue
        content = file.read_bytes()
        assert not [one for one in passwords if one.encode() in content], file
    assert private[1].stat().st_mode & 0o777 == 0o600
    for folder in (secure.credentials, secure.data / "kafka-1", secure.data / "redis"):
        assert folder.stat().st_mode & 0o777 == 0o700
    for pid in secure.pids.values():
        words = Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
        assert not [one for one in passwords if one in words]


async def test_redis_serves_each_user_as_far_as_it_may_and_nobody_else(
    secure: SecureServices,
) -> None:
    def client(user: str | None, password: str | None = None) -> Redis:
        if user is not None and password is None:
            password = secure.redis_password(user)
        return Redis.from_url(secure.redis_url, username=user, password=password)

    async with client("worker") as worker:
        await worker.set("key", "value")
        assert await worker.eval("return redis.call('GET', KEYS[1])", 1, "key") == b"value"
        await worker.info()
        with pytest.raises(NoPermissionError):
            await worker.flushall()
        with pytest.raises(NoPermissionError):
            await worker.config_get("*")
    async with client("product") as product:
        assert await product.get("key") == b"value"
        with pytest.raises(NoPermissionError):
            await product.set("key", "other")
    for user, password in ((None, None), ("upstream", None), ("worker", "guessed")):
        async with client(user, password) as other:
            with pytest.raises((AuthenticationError, NoPermissionError)):
                await other.get("key")


async def test_a_certificate_is_renewed_while_a_client_goes_on(secure: SecureServices) -> None:
    await create(secure, "renewed")
    async with AIOKafkaProducer(**secure.aiokafka(ADMIN)) as producer:
        await producer.send_and_wait("renewed", b"before", partition=0)
        shown = serial(secure)
        assert "kafka-1" in rotate(secure)
        await eventually(lambda: serial(secure) != shown)  # brokers take it up by and by
        await producer.send_and_wait("renewed", b"after", partition=0)
    consumer = AIOKafkaConsumer(**secure.aiokafka(ADMIN), auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition("renewed", 0)])
        assert [(await consumer.getone()).value for _ in range(2)] == [b"before", b"after"]
    finally:
        await consumer.stop()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_new_passwords_count_from_the_next_connection_on(secure: SecureServices) -> None:
    old = secure.aiokafka("worker")
    rotate(secure, "--passwords")
    assert secure.password("worker") != old["sasl_plain_password"]
    async with AIOKafkaProducer(**secure.aiokafka("worker")):
        pass
    refused = AIOKafkaProducer(**old, request_timeout_ms=3000)
    with pytest.raises(KafkaError):
        await refused.start()
    await refused.stop()
