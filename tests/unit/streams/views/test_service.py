"""What views tell beside their totals; nothing is started here."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.schemas.topics import RESULTS
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.consumer.recent_gaps import RecentGaps
from millstream.streams.sessions.memory import MemorySessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.views.service import Views


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(namespace="m", data_dir=tmp_path)


async def test_gaps_of_a_view_are_counted_by_topic_and_named(settings: Settings) -> None:
    collector, gaps = MetricsCollector(), RecentGaps()
    views = Views(settings, MemorySessionStore(lambda: 0), collector, gaps=gaps)
    topic = settings.topic(RESULTS.name)
    views.app.on_gap(OffsetGap(topic, 3, stood_at=5, read_from=9))
    views.app.on_gap(OffsetGap(topic, 4, stood_at=5, read_from=7))
    views.app.on_gap(OffsetGap(topic, 5, stood_at=1000, read_from=0))

    def counted(name: str) -> float | None:
        return collector.registry.get_sample_value(name, {"topic": "results"})

    assert counted("millstream_view_records_lost_to_retention_total") == 6
    assert counted("millstream_view_logs_set_back_total") == 1
    assert [one.partition(":")[0] for one in gaps.told()] == [
        f"{topic}, partitions 3, 4",
        f"{topic}, partitions 5",
    ]
