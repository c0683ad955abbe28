"""How long topics keep their records, where some of them are set."""

from __future__ import annotations

import pytest

from millstream.schemas.topics import (
    BASE_TOPICS,
    CHECKPOINTS,
    DAY_MS,
    DEAD_LETTERS,
    DECISIONS,
    HOUR_MS,
    JOURNAL,
    LANES,
    OBEYED,
    PARKED,
    REDRIVES,
    REQUESTS,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    SESSION_STATES,
    SESSIONS,
    STEPS,
    TOKENS,
    TopicSpec,
    catalogue,
)
from millstream.streams.settings import Settings
from millstream.streams.topic_settings.checks import require_sound
from millstream.streams.topic_settings.retention import AS_LONG_AS, Retention, configs_of
from millstream.streams.topic_settings.values import TopicValues, Value, replication_of


@pytest.mark.parametrize("topic", catalogue(("executor",)), ids=lambda topic: topic.name)
def test_without_settings_it_is_as_in_the_catalogue(topic: TopicSpec) -> None:
    assert Retention().ms(topic) == topic.retention_ms
    assert Retention({"*": {"segment.bytes": None}}).ms(topic) == topic.retention_ms
    assert configs_of({}, topic.configs(), topic) == topic.configs()


def test_the_catalogue_itself_keeps_what_must_be_kept() -> None:
    whole: TopicValues = {
        topic.name: {"retention.ms": topic.retention_ms}
        for topic in BASE_TOPICS
        if topic.retention_ms is not None
    }
    require_sound(whole, chain_cuts=(), dedup_window_s=7 * 86_400, replication=None)
    for one in AS_LONG_AS:
        assert (one.topic.retention_ms or 0) >= Retention().least_ms(one)


@pytest.mark.parametrize(
    ("topic", "set_ms", "others"),
    [
        (TOKENS, HOUR_MS, {STEPS: HOUR_MS}),
        (CHECKPOINTS, 90 * DAY_MS, {JOURNAL: 90, SESSIONS: 90, SESSION_STATES: 90}),
        (CHECKPOINTS, 2 * DAY_MS, {JOURNAL: 2, SESSIONS: 2, SESSION_STATES: 2}),
        (REQUESTS, 30 * DAY_MS, {RESULTS: 30, DECISIONS: 30, OBEYED: 30}),
        (REQUESTS, DAY_MS, {RESULTS: 7, DECISIONS: 7, OBEYED: 7}),
        (DEAD_LETTERS, 90 * DAY_MS, {REDRIVES: 98}),
    ],
)
def test_what_follows_a_topic_or_must_be_kept_as_long_is(
    topic: TopicSpec, set_ms: int, others: dict[TopicSpec, int]
) -> None:
    topics: TopicValues = {topic.name: {"retention.ms": set_ms}}
    for other, kept in others.items():
        kept_ms = kept if kept == HOUR_MS else kept * DAY_MS
        assert Retention(topics).ms(other) == kept_ms
        assert configs_of(topics, other.configs(), other)["retention.ms"] == str(kept_ms)


def test_a_topic_of_a_topic_that_follows_another_follows_both() -> None:
    set_ms = 9 * DAY_MS
    assert Retention({"control": {"retention.ms": set_ms}}).ms(RUN_MIGRATION_ANSWERS) == set_ms


def test_letters_in_longer_segments_have_their_redrives_longer() -> None:
    values: dict[str, Value] = {"retention.ms": 60 * DAY_MS, "segment.ms": 30 * DAY_MS}
    assert Retention({"dead-letters": values}).ms(REDRIVES) == 91 * DAY_MS


def test_what_is_left_to_the_broker_is_not_asked_for_and_values_of_all_fit_each() -> None:
    topics: TopicValues = {
        "*": {
            "segment.bytes": 52_428_800,
            "min.cleanable.dirty.ratio": None,
            "max.compaction.lag.ms": 7_200_000,
            "max.message.bytes": 1_048_588,
        },
        "lanes": {"segment.bytes": None, "remote.storage.enable": False},
    }
    lanes = configs_of(topics, LANES.configs(), LANES)
    assert not {"segment.bytes", "min.cleanable.dirty.ratio"} & lanes.keys()
    assert lanes["max.compaction.lag.ms"] == "7200000"
    assert lanes["remote.storage.enable"] == "false"
    assert "max.compaction.lag.ms" not in configs_of(topics, TOKENS.configs(), TOKENS)
    assert configs_of(topics, TOKENS.configs(), TOKENS)["segment.bytes"] == "52428800"
    parked = configs_of(topics, PARKED.configs(), PARKED)
    assert parked["max.message.bytes"] == "2000000"
    changelog = configs_of(topics, {"cleanup.policy": "compact", "segment.bytes": "1"}, None)
    assert changelog["segment.bytes"] == "52428800"


def test_replicas_are_those_of_the_topic_else_those_of_all() -> None:
    topics: TopicValues = {"*": {"replication.factor": 2}, "tokens": {"replication.factor": 1}}
    assert replication_of(topics, TOKENS, 3) == 1
    assert replication_of(topics, LANES, 3) == 2
    assert replication_of(topics, None, 3) == 2
    assert replication_of({}, TOKENS, 3) == 3


def test_settings_have_it() -> None:
    settings = Settings(topics={"tokens": {"retention.ms": 2 * HOUR_MS}})
    assert settings.retention.ms(TOKENS) == 2 * HOUR_MS
