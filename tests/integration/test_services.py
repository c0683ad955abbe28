from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from millstream.streams.broker.clients import admin_client, idempotent_producer
from millstream.streams.settings import Settings
from tests.services.probes import free_port, redis_answers
from tests.services.running import Services, Unanswered, running_services


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


@pytest.mark.plaintext(reason="the environment names services without saying as whom")
def test_services_that_the_environment_names_are_used(
    plaintext_services: Services, tmp_path: Path
) -> None:
    services = plaintext_services
    named = {"MILLSTREAM_KAFKA": services.kafka, "MILLSTREAM_REDIS_URL": services.redis_url}
    with running_services(named, tmp_path) as used:
        assert (used.kafka, used.redis_url) == (services.kafka, services.redis_url)
        assert all("named by MILLSTREAM_" in told for told in used.told)


@pytest.mark.parametrize(
    ("name", "scheme"), [("MILLSTREAM_KAFKA", ""), ("MILLSTREAM_REDIS_URL", "redis://")]
)
def test_a_named_service_that_does_not_answer_is_told(
    name: str, scheme: str, tmp_path: Path
) -> None:
    named = {name: f"{scheme}127.0.0.1:{free_port()}"}
    with (
        pytest.raises(Unanswered, match=f"{name} names .*127.0.0.1"),
        running_services(named, tmp_path, named_timeout_s=0.5),
    ):
        pass


def test_no_millstream_variable_of_the_caller_reaches_a_test(settings: Settings) -> None:
    given = {"kafka", "redis_url", "kafka_config", "namespace", "data_dir"}
    assert settings.model_dump(exclude=given) == Settings.model_construct(partitions=2).model_dump(
        exclude=given
    )
