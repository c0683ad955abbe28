"""How topics on brokers differ from what they are to be, in words."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.schemas.topics import DAY_MS, LANES, REQUESTS, TOKENS, TopicSpec
from millstream.streams.broker.topics.drift import Drift, Found, told_of
from millstream.streams.settings import Settings

SETTINGS = Settings(kafka="b:9092")


def found(spec: TopicSpec, *, replicas: int = 3, read_only: str = "", **values: str) -> Found:
    configs = {
        **spec.configs(),
        "max.message.bytes": str(spec.batch_bytes_min),
        "min.insync.replicas": "2",
        "retention.bytes": "-1",
        **{key.replace("_", "."): value for key, value in values.items()},
    }
    return Found(f"millstream.{spec.name}", 4, replicas, configs, frozenset(read_only.split()))


def drifts(spec: TopicSpec, settings: Settings = SETTINGS, **how: Any) -> list[Drift]:
    return list(told_of(settings, spec, found(spec, **how)))


def one(spec: TopicSpec, settings: Settings = SETTINGS, **how: Any) -> Drift:
    (drift,) = drifts(spec, settings, **how)
    assert "\n" not in str(drift)
    return drift


@pytest.mark.parametrize("spec", [TOKENS, LANES, REQUESTS])
def test_a_topic_as_it_is_to_be_differs_in_nothing(spec: TopicSpec) -> None:
    assert drifts(spec) == []


def test_what_is_set_for_a_topic_that_stands_otherwise_is_told_with_the_command() -> None:
    longer = SETTINGS.model_copy(update={"topics": {"tokens": {"retention.ms": 3 * DAY_MS}}})
    drift = one(TOKENS, longer)
    assert (drift.setting, drift.wanted, drift.found) == ("retention.ms", "259200000", "86400000")
    assert (
        "kafka-configs.sh --bootstrap-server b:9092 --alter --entity-type topics --entity-name "
        "millstream.tokens --add-config 'retention.ms=259200000'"
    ) in drift.remedy
    assert "null" not in drift.remedy


def test_what_is_left_to_the_broker_is_not_compared() -> None:
    left = {"*": {"segment.bytes": None, "min.cleanable.dirty.ratio": None}}
    settings = SETTINGS.model_copy(update={"topics": left})
    how = {"segment_bytes": "104857600", "min_cleanable_dirty_ratio": "0.5"}
    assert drifts(LANES, settings, **how) == []
    assert len(drifts(LANES, **how)) == 2


def test_a_value_that_alters_without_effect_can_be_left_to_the_broker() -> None:
    # michelin/ns4kafka#377 and aiven/terraform-provider-aiven#2210: it is taken, and not done.
    drift = one(LANES, segment_bytes="1073741824")
    assert """; or leave it to the broker: MILLSTREAM_TOPICS='{"lanes": {"seg""" in drift.remedy


def test_a_value_that_nobody_may_change_has_no_command() -> None:
    drift = one(LANES, segment_bytes="1073741824", read_only="segment.bytes")
    assert "this cluster lets nobody change it; leave it to the broker" in drift.remedy
    assert "kafka-configs.sh" not in drift.remedy


def test_a_number_that_a_broker_writes_otherwise_is_the_same() -> None:
    assert drifts(LANES, min_cleanable_dirty_ratio="0.10") == []


def test_a_clock_that_is_not_the_brokers_is_told_with_what_depends_on_it() -> None:
    drift = one(TOKENS, message_timestamp_type="CreateTime")
    assert "limits, caps, windows of ids" in drift.remedy
    assert "message.timestamp.type=LogAppendTime" in drift.remedy


def test_a_clock_that_is_left_to_the_broker_must_be_the_brokers_all_the_same() -> None:
    left = SETTINGS.model_copy(update={"topics": {"*": {"message.timestamp.type": None}}})
    assert drifts(TOKENS, left) == []
    drift = one(TOKENS, left, message_timestamp_type="CreateTime")
    assert "log.message.timestamp.type=LogAppendTime" in drift.remedy


def test_more_replicas_in_sync_than_there_are_is_fatal() -> None:
    # faust-streaming/faust#390, and brokers whose own default is two
    drift = one(TOKENS, replicas=1)
    assert drift.fatal
    assert (drift.wanted, drift.found) == ("1 at most", "2")
    assert "NOT_ENOUGH_REPLICAS" in drift.remedy
    assert "min.insync.replicas=1" in drift.remedy


def test_other_replicas_than_are_set_are_told_with_the_tool_that_changes_them() -> None:
    # bigstack-oss/cubecos#672: no alteration of a topic changes them
    three = SETTINGS.model_copy(update={"replication": 3})
    drift = one(TOKENS, three, replicas=2)
    assert not drift.fatal
    assert (drift.setting, drift.wanted, drift.found) == ("replication.factor", "3", "2")
    assert "kafka-reassign-partitions.sh" in drift.remedy


def test_a_broker_that_keeps_by_size_is_told_of_where_lanes_count_on_time() -> None:
    # Amazon MSK Serverless: 250 GiB unless it is set
    drift = one(REQUESTS, retention_bytes="268435456000")
    assert "whatever their age" in drift.remedy
    assert drifts(LANES, retention_bytes="268435456000") == []
    by_size = SETTINGS.model_copy(update={"topics": {"tokens": {"retention.bytes": 10**9}}})
    assert drifts(TOKENS, by_size, retention_bytes="1000000000") == []
    left = SETTINGS.model_copy(update={"topics": {"*": {}, "requests": {"retention.bytes": None}}})
    assert drifts(REQUESTS, left, retention_bytes="268435456000") == []


def test_a_topic_that_a_client_made_by_asking_for_it_is_told_how_it_came_to_be() -> None:
    stands = found(TOKENS)
    drift, *_ = told_of(SETTINGS, TOKENS, Found(stands.name, 1, 3, stands.configs))
    assert drift.fatal
    assert "auto.create.topics.enable" in drift.remedy


def test_a_limit_of_sizes_that_is_set_higher_is_looked_for() -> None:
    higher = SETTINGS.model_copy(update={"topics": {"tokens": {"max.message.bytes": 3_000_000}}})
    drift = one(TOKENS, higher)
    assert (drift.wanted, drift.found) == ("3000000 at least", "1000000")
    assert drifts(TOKENS, max_message_bytes="5000000") == []
