"""A gap is over when it is found, and is named for ten minutes all the same."""

from __future__ import annotations

from structlog.testing import capture_logs

from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.consumer.recent_gaps import KEPT_S, RecentGaps


def test_gaps_of_a_topic_are_one_sentence_for_each_kind() -> None:
    gaps = RecentGaps()
    assert gaps.told() == []
    with capture_logs() as lines:
        gaps.tell(OffsetGap("requests", 5, stood_at=2, read_from=3))
        gaps.tell(OffsetGap("requests", 3, stood_at=5, read_from=9))
        gaps.tell(OffsetGap("requests", 4, stood_at=1000, read_from=0))
        gaps.tell(OffsetGap("control", 3, stood_at=1000, read_from=0))
        gaps.tell(OffsetGap("requests", 6, stood_at=None, read_from=0))
    assert gaps.told() == [
        "control, partitions 3: the log ended before where this group stood, and is read anew",
        "requests, partitions 3, 5: retention deleted records before they were read, 5 at most",
        "requests, partitions 4: the log ended before where this group stood, and is read anew",
        "requests, partitions 6: the group's committed offsets are gone, and the log is read anew",
    ]
    assert len(lines) == 5


def test_a_gap_is_named_for_ten_minutes_and_a_newer_one_of_its_partition_in_its_place() -> None:
    now_s = 0.0
    gaps = RecentGaps(lambda: now_s)
    gaps.tell(OffsetGap("requests", 3, stood_at=5, read_from=9))
    now_s = KEPT_S - 1
    gaps.tell(OffsetGap("requests", 4, stood_at=5, read_from=6))
    assert "partitions 3, 4" in gaps.told()[0]
    now_s = KEPT_S
    assert gaps.told() == [
        "requests, partitions 4: retention deleted records before they were read, 1 at most"
    ]
    now_s = 2 * KEPT_S
    assert gaps.told() == []
