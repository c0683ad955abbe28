from __future__ import annotations

import pytest

from millstream.schemas.any_event import EVENT_TYPES
from millstream.schemas.lane_events import StageRequest
from millstream.schemas.topics import (
    BASE_TOPICS,
    CHECKPOINTS,
    LANES,
    REQUESTS,
    SESSIONS,
    TopicSpec,
    catalogue,
)


def test_every_topics_name_and_event_is_its_own() -> None:
    topics = catalogue(("executor",))
    assert len({topic.name for topic in topics}) == len(topics)
    assert {topic.event for topic in topics} == set(EVENT_TYPES)


def test_a_cut_chain_has_a_topic_for_each_cut() -> None:
    topics = catalogue(("cost", "executor"))[len(BASE_TOPICS) :]
    assert [topic.name for topic in topics] == ["stage-cost", "stage-executor"]
    assert {topic.event for topic in topics} == {StageRequest}
    assert not any(topic.public for topic in topics)


@pytest.mark.rule(12)
@pytest.mark.parametrize("topic", catalogue(("executor",)), ids=lambda topic: topic.name)
def test_the_brokers_clock_stamps_every_record(topic: TopicSpec) -> None:
    assert topic.configs()["message.timestamp.type"] == "LogAppendTime"


def test_a_topic_is_compacted_or_kept_for_a_span_of_time() -> None:
    assert LANES.compacted
    assert LANES.configs()["cleanup.policy"] == "compact"
    assert "retention.ms" not in LANES.configs()
    assert not REQUESTS.compacted
    assert REQUESTS.configs()["retention.ms"] == str(7 * 86_400_000)


def test_a_session_is_forgotten_when_its_newest_checkpoint_is() -> None:
    assert SESSIONS.compacted
    assert SESSIONS.configs()["cleanup.policy"] == "compact,delete"
    assert SESSIONS.configs()["retention.ms"] == CHECKPOINTS.configs()["retention.ms"]


@pytest.mark.parametrize(
    "topic", [topic for topic in BASE_TOPICS if topic.compacted], ids=lambda topic: topic.name
)
def test_what_is_read_whole_is_compacted_in_small_segments(topic: TopicSpec) -> None:
    configs = topic.configs()
    assert int(configs["segment.bytes"]) <= 4 * 1024 * 1024
    assert float(configs["min.cleanable.dirty.ratio"]) <= 0.1


@pytest.mark.rule(13)
def test_only_what_is_a_newest_state_by_key_is_compacted() -> None:
    compacted = {topic.name for topic in catalogue(("executor",)) if topic.compacted}
    names = {"sessions", "parked", "holds", "deferred", "lanes", "snapshots", "templates"}
    names |= {"session-states"}
    assert compacted == names
