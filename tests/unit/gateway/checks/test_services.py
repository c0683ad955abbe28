"""What `doctor` finds of Kafka."""

from __future__ import annotations

from millstream.gateway.checks.services import offsets_found
from millstream.streams.consumer.offset_gaps import OffsetGap


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
    assert "offsets.retention.minutes" in gone.remedy
