"""Topics on real Kafka: made from the catalogue, and never changed."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from millstream.schemas.errors import Misconfigured, ServiceUnavailable, TopicDrift
from millstream.schemas.topics import (
    BASE_TOPICS,
    CHECKPOINTS,
    DAY_MS,
    DEAD_LETTERS,
    JOURNAL,
    LANES,
    PARKED,
    REQUESTS,
    RESULTS,
    SESSIONS,
    TOKENS,
)
from millstream.streams.broker.clients import admin_client
from millstream.streams.broker.diagnosis.features import require_transactions
from millstream.streams.broker.topic_admin import (
    ensure_changelogs,
    ensure_topics,
    partition_counts,
    refused_topics,
    require_sound_topics,
    topic_drift,
)
from millstream.streams.settings import Settings

pytestmark = pytest.mark.rule(11)


async def create(settings: Settings, name: str, partitions: int, **configs: str) -> None:
    admin = admin_client(settings)
    await admin.start()
    try:
        configs = {key.replace("_", "."): value for key, value in configs.items()}
        topic = NewTopic(settings.topic(name), partitions, 1, topic_configs=configs)
        await admin.create_topics([topic])
    finally:
        await admin.close()


async def test_topics_are_created_as_the_catalogue_says_and_found_the_second_time(
    settings: Settings,
) -> None:
    names = tuple(settings.topic(spec.name) for spec in BASE_TOPICS)
    first = await ensure_topics(settings, BASE_TOPICS)
    assert (first.created, first.existing) == (names, ())
    second = await ensure_topics(settings, BASE_TOPICS)
    assert (second.created, second.existing) == ((), names)
    assert await require_sound_topics(settings, BASE_TOPICS) == ()
    counts = await partition_counts(settings, names)
    assert set(counts.values()) == {settings.partitions}


async def test_topics_are_created_without_asking_for_those_of_others(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="aiokafka.conn")
    await ensure_topics(settings, BASE_TOPICS)
    asked = [line.message for line in caplog.records if "MetadataRequest" in line.message]
    assert asked
    assert not [line for line in asked if "topics=NULL" in line]


async def test_workers_that_start_at_once_create_each_topic_once(settings: Settings) -> None:
    reports = await asyncio.gather(*(ensure_topics(settings, BASE_TOPICS) for _ in range(4)))
    created = [name for report in reports for name in report.created]
    assert sorted(created) == sorted(settings.topic(spec.name) for spec in BASE_TOPICS)
    assert all({*report.created, *report.existing} == {*created} for report in reports)


async def test_drift_in_policy_retention_and_clock_is_told_and_left_alone(
    settings: Settings,
) -> None:
    await create(settings, "results", settings.partitions, retention_ms="60000")
    await create(settings, "sessions", settings.partitions, message_timestamp_type="LogAppendTime")
    specs = (RESULTS, SESSIONS)
    await ensure_topics(settings, specs)
    drifts = await require_sound_topics(settings, specs)
    found = {(drift.topic, drift.setting, drift.found) for drift in drifts}
    assert found >= {
        (settings.topic("results"), "retention.ms", "60000"),
        (settings.topic("results"), "message.timestamp.type", "CreateTime"),
        (settings.topic("sessions"), "cleanup.policy", "delete"),
        (settings.topic("sessions"), "segment.bytes", str(1024**3)),
    }
    assert {setting for topic, setting, _ in found if topic == settings.topic("results")} == {
        "retention.ms",
        "message.timestamp.type",
    }
    remedies = " ".join(map(str, drifts))
    assert "--add-config 'retention.ms=604800000'" in remedies
    assert "--add-config 'cleanup.policy=[compact,delete]'" in remedies
    assert await topic_drift(settings, specs) == drifts


async def test_another_number_of_partitions_is_fatal(settings: Settings) -> None:
    await create(settings, "tokens", settings.partitions + 1)
    with pytest.raises(TopicDrift, match="number of partitions is 3, the catalogue says 2"):
        await require_sound_topics(settings, [TOKENS])


async def test_missing_topic_is_fatal_and_named(settings: Settings) -> None:
    with pytest.raises(TopicDrift, match=settings.topic("tokens")):
        await require_sound_topics(settings, [TOKENS])
    with pytest.raises(Misconfigured, match=settings.topic("tokens")):
        await partition_counts(settings, [settings.topic("tokens")])


async def test_replication_that_the_cluster_cannot_give_is_refused_in_words(
    settings: Settings,
) -> None:
    greedy = settings.model_copy(update={"replication": 9})
    with pytest.raises(Misconfigured, match="MILLSTREAM_REPLICATION"):
        await ensure_topics(greedy, [TOKENS])


async def test_kafka_that_is_away_is_named_by_its_address() -> None:
    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:1"):
        await ensure_topics(Settings(kafka="127.0.0.1:1"), [TOKENS])


async def test_changelogs_are_compacted_and_have_the_partitions_of_the_catalogue(
    settings: Settings,
) -> None:
    name = f"{settings.namespace}-views-results-changelog"
    report = await ensure_changelogs(settings, [name])
    assert report.created == (name,)
    assert (await ensure_changelogs(settings, [name])).existing == (name,)
    assert await partition_counts(settings, [name]) == {name: settings.partitions}
    resource = ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": None})
    admin = admin_client(settings)
    await admin.start()
    [response] = await admin.describe_configs([resource])
    await admin.close()
    [described] = response.to_object()["resources"]
    [entry] = described["config_entries"]
    assert entry["config_value"] == "compact"


async def test_a_topic_that_takes_less_than_is_written_is_named_and_one_that_takes_more_is_not(
    settings: Settings,
) -> None:
    limits = {REQUESTS: "999999", TOKENS: "1000000", PARKED: "1048588", DEAD_LETTERS: "5000000"}
    for spec, limit in limits.items():
        configs = {key.replace(".", "_"): value for key, value in spec.configs().items()}
        configs["max_message_bytes"] = limit
        await create(settings, spec.name, settings.partitions, **configs)
    await ensure_topics(settings, tuple(limits))
    drifts = await require_sound_topics(settings, tuple(limits))
    assert {(one.topic, one.setting, one.wanted, one.found) for one in drifts} == {
        (settings.topic("requests"), "max.message.bytes", "1000000 at least", "999999"),
        (settings.topic("parked"), "max.message.bytes", "2000000 at least", "1048588"),
    }
    remedies = " ".join(map(str, drifts))
    assert "--add-config 'max.message.bytes=2000000'" in remedies


async def test_what_is_set_for_topics_is_what_they_and_those_that_follow_them_are_made_with(
    settings: Settings,
) -> None:
    topics: dict[str, dict[str, bool | int | float | str | None]] = {
        "*": {"segment.bytes": 52_428_800, "min.cleanable.dirty.ratio": None},
        "checkpoints": {"retention.ms": 2 * DAY_MS},
        "tokens": {"retention.bytes": 10**9, "compression.type": "lz4"},
    }
    here = settings.model_copy(update={"topics": topics})
    specs = (CHECKPOINTS, JOURNAL, SESSIONS, TOKENS, LANES)
    await ensure_topics(here, specs)
    changelog = f"{here.namespace}-views-results-changelog"
    await ensure_changelogs(here, [changelog])
    assert await topic_drift(here, specs) == ()
    drifts = await topic_drift(settings, specs)
    differing = {(one.topic.rpartition(".")[2], one.setting, one.found) for one in drifts}
    assert differing == {
        *((name, "retention.ms", "172800000") for name in ("checkpoints", "journal", "sessions")),
        *((name, "segment.bytes", "52428800") for name in ("sessions", "lanes")),
        *((name, "min.cleanable.dirty.ratio", "0.5") for name in ("sessions", "lanes")),
        ("tokens", "retention.bytes", "1000000000"),
    }
    resource = ConfigResource(ConfigResourceType.TOPIC, changelog, {"segment.bytes": None})
    admin = admin_client(settings)
    await admin.start()
    [response] = await admin.describe_configs([resource])
    await admin.close()
    [described] = response.to_object()["resources"]
    assert described["config_entries"][0]["config_value"] == "52428800"


async def test_values_that_this_cluster_refuses_are_named_before_any_topic_is_made(
    settings: Settings,
) -> None:
    # These brokers store nothing remotely, and refuse topics that are to.
    remote = {"remote.storage.enable": True, "local.retention.ms": 1000}
    here = settings.model_copy(update={"topics": {"tokens": remote}})
    specs = (TOKENS, RESULTS)
    told = await refused_topics(here, specs)
    assert told is not None
    assert "\n" not in told
    assert f"Kafka refuses topic {settings.topic('tokens')}: remote.storage.enable of true" in told
    assert """MILLSTREAM_TOPICS='{"*": {"remote.storage.enable": null""" in told
    with pytest.raises(TopicDrift, match="the topic is missing"):
        await require_sound_topics(here, specs)
    with pytest.raises(Misconfigured) as refused:
        await ensure_topics(here, specs)
    assert str(refused.value) == told
    assert await refused_topics(settings, specs) is None


async def test_a_topic_that_no_record_can_be_written_to_is_fatal(settings: Settings) -> None:
    await create(settings, "lanes", settings.partitions, **{
        key.replace(".", "_"): value for key, value in LANES.configs().items()
    }, min_insync_replicas="2")  # fmt: skip
    with pytest.raises(TopicDrift, match="NOT_ENOUGH_REPLICAS"):
        await require_sound_topics(settings, [LANES])


async def test_brokers_of_kafka_take_transactions(settings: Settings) -> None:
    await require_transactions(settings)
