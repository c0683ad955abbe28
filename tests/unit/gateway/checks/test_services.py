"""What `doctor` finds of Kafka and Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millstream.gateway.checks.services import check_redis, offsets_found, topics_found
from millstream.streams.broker.topic_admin import Drift
from millstream.streams.consumer.offset_gaps import OffsetGap

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_requests_that_nobody_can_read_any_more_are_told_with_what_to_do() -> None:
    (fine,) = offsets_found(())
    assert fine.level == "ok"
    lost, set_back, gone = offsets_found(
        (
            OffsetGap("m.requests", 3, 5, 19),
            OffsetGap("m.control", 0, 1000, 0),
            OffsetGap("m.requests", 4, None, 7),
        )
    )
    assert lost.level == set_back.level == "wrong"
    assert "m.requests, partition 3: retention deleted 5 to 19 unread, 14 records" in lost.told
    assert "retention.ms" in lost.remedy
    assert "m.control, partition 0: it ends before 1000" in set_back.told
    assert set_back.remedy
    assert gone.level == "note"
    assert "m.requests, partition 4: the workers' group has nothing committed" in gone.told
    assert gone.remedy.startswith("nothing: whoever takes over reads the topic from its beginning")
    assert "offsets.retention.minutes" in gone.remedy


def test_topics_that_a_user_may_not_see_are_one_note_beside_what_is_wrong() -> None:
    note, wrong = topics_found(
        (
            Drift("m.a", "the topic", "that it exists", "hidden", "", fatal=True, is_hidden=True),
            Drift("m.b", "the topic", "that it exists", "missing", "make it", fatal=True),
            Drift("m.c", "the configuration", "known", "hidden", "", is_hidden=True),
        )
    )
    assert (note.level, wrong.level, wrong.remedy) == ("note", "wrong", "make it")
    assert "may not see all of m.a, m.c" in note.told


async def test_redis_that_is_named_is_looked_at_where_no_kafka_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_DATA_DIR", str(tmp_path))
    assert await check_redis() == ()
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", "127.0.0.1:6379")
    (no_url,) = await check_redis()
    assert (no_url.level, no_url.remedy) == ("wrong", "mend MILLSTREAM_REDIS_URL, or unset it")
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", "redis://127.0.0.1:1/0")
    (away,) = await check_redis()
    assert away.level == "wrong"
    assert "Redis does not answer" in away.told
