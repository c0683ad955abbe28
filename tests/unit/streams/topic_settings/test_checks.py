"""What is set for topics and cannot be: one line each, before a broker is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.mark.parametrize(
    ("topics", "told"),
    [
        ({"token": {}}, "token: there is no such topic; did you mean tokens?"),
        ({"millstream.tokens": {}}, "did you mean tokens? Names are without the namespace"),
        ({"xyzzy": {}}, "`millstream topics` lists them. Names are without"),
        ({"stage-executor": {}}, "stage-executor: there is no such topic"),
        # getsentry/sentry-kafka-schemas#241: a broker's name of it is no topic's
        ({"tokens": {"log.retention.minutes": 60}}, "log.retention.minutes is nothing that can be"),
        ({"tokens": {"retention_ms": DAY_MS}}, "did you mean retention.ms?"),
        ({"tokens": {"retention.ms": "1d"}}, "retention.ms is '1d', and must be a whole number"),
        ({"tokens": {"retention.ms": True}}, "retention.ms is True, and must be a whole number"),
        ({"tokens": {"retention.ms": -1}}, "retention.ms is -1, and must be a whole number"),
        ({"tokens": {"retention.ms": 60_000}}, "whole number from 3600000"),
        ({"tokens": {"retention.ms": None}}, "lanes count by it"),
        ({"tokens": {"partitions": 12}}, "set MILLSTREAM_PARTITIONS"),
        ({"tokens": {"cleanup.policy": "compact"}}, "is no matter of choice"),
        ({"tokens": {"message.timestamp.type": "CreateTime"}}, "must be one of LogAppendTime"),
        ({"tokens": {"compression.type": "brotli"}}, "must be one of producer, gzip"),
        ({"tokens": {"min.cleanable.dirty.ratio": 0.5}}, "it is not compacted"),
        ({"lanes": {"min.cleanable.dirty.ratio": 5}}, "a number from 0 to 1"),
        ({"lanes": {"segment.bytes": 14}}, "a whole number from 1048576"),
        ({"lanes": {"remote.storage.enable": True}}, "keep no compacted topic remotely"),
        ({"tokens": {"remote.storage.enable": 1}}, "must be true or false"),
        ({"parked": {"retention.ms": DAY_MS}}, "what waits there would be lost"),
        ({"checkpoints": {"retention.bytes": 10**9}}, "may be set of tokens and steps"),
        ({"parked": {"max.message.bytes": 1_048_588}}, "must be 2000000 at least"),
        ({"*": {"retention.ms": DAY_MS}}, "is set topic by topic"),
        ({"results": {"retention.ms": DAY_MS}}, "as requests are: a request that is read again"),
        (
            {"requests": {"retention.ms": 30 * DAY_MS}, "decisions": {"retention.ms": 8 * DAY_MS}},
            "must be 2592000000 (30 d) at least, as requests are",
        ),
        ({"journal": {"retention.ms": DAY_MS}}, "as checkpoints are: a run may wait"),
        ({"sessions": {"retention.ms": DAY_MS}}, "as checkpoints are: a conversation without"),
        ({"redrives": {"retention.ms": 31 * DAY_MS}}, "must be 3283200000 (38 d) at least"),
        ({"costs": {"retention.ms": DAY_MS}}, "caps count what was spent today and yesterday"),
        (
            {"checkpoints": {"retention.ms": HOUR_MS}},
            "must be 86400000 (1 d) at least, a day: what",
        ),
        ({"attempts": {"retention.ms": DAY_MS}}, "attempts: retention.ms is 86400000 (1 d)"),
        (
            {"session-commands": {"retention.ms": HOUR_MS}},
            (
                "session-commands: retention.ms is 3600000 (1 h), and must be 86400000 (1 d) at "
                "least, MILLSTREAM_DEDUP_WINDOW_S"
            ),
        ),
        # faust-streaming/faust#390: one replica, of which two must have a record
        (
            {"tokens": {"replication.factor": 1, "min.insync.replicas": 2}},
            "min.insync.replicas is 2, of 1 replicas: nothing could be written",
        ),
        ({"*": {"min.insync.replicas": 4}}, "min.insync.replicas is 4, of 3 replicas"),
        ({"tokens": {"replication.factor": 0}}, "a whole number from 1 to 9"),
    ],
)
def test_what_cannot_be_is_refused_with_the_topic_and_what_depends_on_it(
    topics: dict[str, Any], told: str
) -> None:
    with pytest.raises(Misconfigured) as refused:
        load_settings(topics=topics, replication=3)
    assert str(refused.value).startswith("MILLSTREAM_TOPICS: ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    topics = {"token": {}, "lanes": {"retention.ms": DAY_MS}, "results": {"segment.sm": 1}}
    with pytest.raises(Misconfigured) as refused:
        load_settings(topics=topics)
    assert str(refused.value).count("MILLSTREAM_TOPICS: ") == 3


def test_a_window_of_ids_that_is_longer_than_results_are_kept_is_refused() -> None:
    short = {"requests": {"retention.ms": DAY_MS}, "results": {"retention.ms": 2 * DAY_MS}}
    assert load_settings(topics=short).topics == short
    with pytest.raises(Misconfigured, match=r"results: .*\(3 d\) at least, MILLSTREAM_DEDUP_WIND"):
        load_settings(topics=short, dedup_window_s=3 * 86_400)


def test_a_cut_chains_topics_may_be_set() -> None:
    topics = {"stage-executor": {"retention.ms": 2 * DAY_MS}}
    assert load_settings(topics=topics, chain_cuts=("executor",)).topics == topics


def test_a_file_says_the_same_and_the_variable_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(
        "# left to Confluent Cloud\n'*':\n  segment.bytes: null\n"
        "tokens:\n  retention.ms: 3600000\n  max.message.bytes: 2000000\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("MILLSTREAM_TOPICS_FILE", str(file))
    monkeypatch.setenv("MILLSTREAM_TOPICS", json.dumps({"tokens": {"retention.ms": 7_200_000}}))
    assert load_settings().topics == {
        "*": {"segment.bytes": None},
        "tokens": {"retention.ms": 7_200_000, "max.message.bytes": 2_000_000},
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read"),
        ("- tokens\n", "must have topics, and below each what is set"),
        ("tokens: 5\n", "must have topics, and below each what is set"),
        ("tokens:\n  retention.ms: 1\n  retention.ms: 2\n", "line 3"),
        ("tokens: {retention.ms: 5}\n", "retention.ms is 5, and must be"),
        ("tokens: {retention.ms: [5]}\n", "retention.ms is [5], and must be"),
    ],
)
def test_a_file_that_is_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, told: str
) -> None:
    file = tmp_path / "topics.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("MILLSTREAM_TOPICS_FILE", str(file))
    with pytest.raises(Misconfigured) as refused:
        load_settings()
    assert told in str(refused.value)


def test_a_variable_that_is_no_json_is_named_with_an_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_TOPICS", "tokens=1d")
    with pytest.raises(Misconfigured, match=r"MILLSTREAM_TOPICS must be JSON, for instance"):
        load_settings()
