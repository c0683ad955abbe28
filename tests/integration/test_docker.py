"""The images are made here, so that it needs no image hub; the engine is started where none is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic

from millstream.infra.kafka.jars import jars_folder
from millstream.infra.paths import PROJECT, cache_folder
from millstream.streams.broker.clients import (
    admin_client,
    committed_consumer,
    transactional_producer,
)
from millstream.streams.settings import Settings
from tests.services.containers import Engine, NoContainer, kafka_container, redis_container
from tests.services.engine import docker_engine
from tests.services.images import imported, kafka_root, redis_root
from tests.services.probes import kafka_answers, redis_answers

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[Engine]:
    try:
        async with docker_engine() as running:
            yield running
    except NoContainer as why:
        pytest.skip(str(why))


async def test_redis_runs_from_an_imported_image(engine: Engine, tmp_path: Path) -> None:
    root = redis_root(tmp_path)
    with (
        imported(engine, "millstream-test/redis:1", root, []) as image,
        redis_container(engine, image) as url,
    ):
        redis_answers(url, timeout_s=60)
        async with redis.asyncio.Redis.from_url(url) as client:
            await client.set("key", "value")
            assert await client.get("key") == b"value"


@pytest.fixture(scope="module")
def jars() -> Path:
    subprocess.run([sys.executable, "-m", "millstream.infra", "fetch"], cwd=PROJECT, check=True)
    return jars_folder(cache_folder())


async def test_kafka_runs_from_an_imported_image(
    engine: Engine, jars: Path, tmp_path: Path
) -> None:
    root = kafka_root(tmp_path, jars)
    changes = ["ENV CLUSTER_ID=5L6g3nShT-eMCtK--X86sw", 'ENTRYPOINT ["/start.sh"]']
    with (
        imported(engine, "millstream-test/kafka:1", root, changes) as image,
        kafka_container(engine, image) as bootstrap,
    ):
        kafka_answers(bootstrap, timeout_s=30)
        await committed_record_is_read_back(Settings(kafka=bootstrap, namespace="docker"))


async def committed_record_is_read_back(settings: Settings) -> None:
    topic = settings.topic("probe")
    admin = admin_client(settings)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    producer = transactional_producer(settings, "docker-probe")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")
    finally:
        await producer.stop()
    consumer = committed_consumer(settings)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        assert (await consumer.getone()).value == b"committed"
    finally:
        await consumer.stop()
