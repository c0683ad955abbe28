"""What clusters answer to the making of a topic, as people have reported it, and what is said."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from millstream.schemas.topics import SESSIONS
from millstream.streams.broker.topics.refused import Refusal, all_refused, told_of_refusal

POLICY, CONFIG, REPLICATION = 44, 40, 38
CONFIGS = {**SESSIONS.configs(), "min.insync.replicas": "2"}


def told(first: Refusal, refused: Mapping[str, Refusal], *, others: int = 0) -> str:
    words = told_of_refusal(first, refused, CONFIGS, partitions=4, replication=3, others=others)
    assert "\n" not in words
    return words


class Cluster:
    """Refuses values one after the other, as brokers do: of several they tell the first."""

    def __init__(self, *refused: tuple[str, int, str]) -> None:
        self.refused = refused
        self.asked = 0

    async def ask(self, configs: Mapping[str, str]) -> Refusal | None:
        self.asked += 1
        for key, error, reason in self.refused:
            if key in configs:
                return Refusal("m.sessions", error, reason)
        return None


@pytest.mark.parametrize(
    ("error", "reason", "key"),
    [
        # thingsboard/thingsboard#8861, on Confluent Cloud
        (
            POLICY,
            (
                "Config property 'segment.bytes' with value '4194304' is lower than the minimum "
                "allowed value of 52428800."
            ),
            "segment.bytes",
        ),
        # confluentinc/ksql#3942, on Confluent Cloud
        (POLICY, "Topic replication factor must be 3", "replication.factor"),
        (REPLICATION, "Unable to replicate the partition 3 time(s)", "replication.factor"),
        # confluentinc/ksql#4202, on IBM Event Streams
        (POLICY, "Invalid retention.ms", "retention.ms"),
        # karafka/karafka-web#450, on Redpanda Serverless
        (CONFIG, 'cannot set "segment.ms"', "segment.ms"),
        (CONFIG, "retention.ms 3600000 is too small, must be at least 24h", "retention.ms"),
        (POLICY, "delete.retention.ms is not permitted", "delete.retention.ms"),
        (POLICY, "Altering min_insync_replicas is denied", "min.insync.replicas"),
        (POLICY, "Topics must be named team.purpose", None),
    ],
)
async def test_the_value_that_a_cluster_refuses_is_found_in_its_words(
    error: int, reason: str, key: str | None
) -> None:
    assert Refusal("m.sessions", error, reason).key(CONFIGS) == key


async def test_all_that_is_refused_is_asked_for_at_once_and_left_by_one_setting() -> None:
    cluster = Cluster(
        ("segment.bytes", POLICY, "segment.bytes is lower than the minimum"),
        ("min.cleanable.dirty.ratio", POLICY, "Config min.cleanable.dirty.ratio is not editable"),
        ("max.compaction.lag.ms", CONFIG, "cannot set max.compaction.lag.ms"),
    )
    first = await cluster.ask(CONFIGS)
    assert first is not None
    refused = await all_refused(first, CONFIGS, cluster.ask)
    assert list(refused) == ["segment.bytes", "min.cleanable.dirty.ratio", "max.compaction.lag.ms"]
    words = told(first, refused, others=7)
    assert words.startswith("Kafka refuses topic m.sessions and 7 more: segment.bytes of 4194304 (")
    assert "only how much a lane reads as it starts" in words
    assert words.endswith(
        """MILLSTREAM_TOPICS='{"*": {"segment.bytes": null, "min.cleanable.dirty.ratio": null, """
        """"max.compaction.lag.ms": null}}'"""
    )


async def test_a_value_that_is_refused_without_its_name_is_found() -> None:
    # Apache Kafka itself, asked for remote.storage.enable; and a policy by ownership
    cluster = Cluster(
        ("compression.type", CONFIG, "This codec is disabled in the broker"),
        ("segment.bytes", POLICY, "Ask your platform team"),
    )
    configs = {**CONFIGS, "compression.type": "zstd"}
    first = await cluster.ask(configs)
    assert first is not None
    assert list(await all_refused(first, configs, cluster.ask)) == [
        "compression.type",
        "segment.bytes",
    ]


async def test_a_cluster_that_never_has_enough_is_asked_so_many_times_and_no_more() -> None:
    asked = 0

    async def ask(_: Mapping[str, str]) -> Refusal:
        nonlocal asked
        asked += 1
        return Refusal("m.sessions", POLICY, " ".join(CONFIGS))

    await all_refused(await ask({}), CONFIGS, ask)
    assert asked <= len(CONFIGS) + 1


@pytest.mark.parametrize(
    ("key", "reason", "what"),
    [
        (
            "message.timestamp.type",
            "message.timestamp.type may not be set",
            "have brokers stamp records, by log.message.timestamp.type=LogAppendTime",
        ),
        (
            "cleanup.policy",
            "cleanup.policy compact is not allowed",
            "needs a cluster that compacts",
        ),
        ("retention.ms", "retention.ms must be lower than 7 days", "docs/how-to/topics.md"),
    ],
)
async def test_what_lanes_count_on_is_left_to_no_broker_and_the_words_say_what_depends_on_it(
    key: str, reason: str, what: str
) -> None:
    cluster = Cluster((key, POLICY, reason))
    first = Refusal("m.sessions", POLICY, reason)
    words = told(first, await all_refused(first, CONFIGS, cluster.ask))
    assert what in words
    assert "null" not in words


async def test_a_cluster_that_takes_another_number_of_replicas_is_told_by_the_setting() -> None:
    first = Refusal("m.sessions", POLICY, "Topic replication factor must be 5")
    words = told(first, await all_refused(first, CONFIGS, Cluster().ask))
    assert "replication.factor of 3 (Topic replication factor must be 5)" in words
    assert "set MILLSTREAM_REPLICATION" in words


async def test_words_that_name_no_value_are_given_with_all_that_could_be_meant() -> None:
    first = Refusal("m.sessions", POLICY, "Topics must be named team.purpose")

    async def ask(_: Mapping[str, str]) -> Refusal:
        return first

    words = told(first, await all_refused(first, CONFIGS, ask))
    assert "(4 partitions, replication 3): Topics must be named team.purpose; mend" in words


async def test_a_user_that_may_create_none_is_told_the_right() -> None:
    first = Refusal("m.sessions", 29, "Authorization failed.")
    words = told(first, await all_refused(first, CONFIGS, Cluster().ask))
    assert "give this user the right `Create`" in words
