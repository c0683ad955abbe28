from __future__ import annotations

from aiokafka.admin import NewTopic

from streams.clients import admin_client, idempotent_producer
from streams.settings import Settings
from tests.probes import redis_answers


async def test_the_sessions_kafka_takes_a_record(settings: Settings) -> None:
    topic = settings.topic("probe")
    admin = admin_client(settings)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    producer = idempotent_producer(settings)
    await producer.start()
    try:
        sent = await producer.send_and_wait(topic, b"here")
    finally:
        await producer.stop()
    assert sent.offset == 0


def test_the_sessions_redis_answers(settings: Settings) -> None:
    redis_answers(settings.redis_url, timeout_s=5)
