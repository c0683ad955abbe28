from __future__ import annotations

import pytest

from schemas.events import EVENT_TYPES, StageRequest
from schemas.topics import BASE_TOPICS, REQUESTS, SESSIONS, TopicSpec, catalogue


def test_every_topics_name_and_event_is_its_own() -> None:
    topics = catalogue(("executor",))
    assert len({topic.name for topic in topics}) == len(topics)
    assert {topic.event for topic in topics} == set(EVENT_TYPES)


def test_a_cut_chain_has_a_topic_for_each_cut() -> None:
    topics = catalogue(("cost", "executor"))[len(BASE_TOPICS) :]
    assert [topic.name for topic in topics] == ["stage-cost", "stage-executor"]
    assert {topic.event for topic in topics} == {StageRequest}
    assert not any(topic.public for topic in topics)


@pytest.mark.parametrize("topic", catalogue(("executor",)), ids=lambda topic: topic.name)
def test_the_brokers_clock_stamps_every_record(topic: TopicSpec) -> None:
    assert topic.configs()["message.timestamp.type"] == "LogAppendTime"


def test_a_topic_is_either_compacted_or_kept_for_a_span_of_time() -> None:
    assert SESSIONS.compacted
    assert SESSIONS.configs()["cleanup.policy"] == "compact"
    assert "retention.ms" not in SESSIONS.configs()
    assert not REQUESTS.compacted
    assert REQUESTS.configs()["retention.ms"] == str(7 * 86_400_000)
