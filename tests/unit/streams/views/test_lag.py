from __future__ import annotations

from millstream.streams.consumer.log_ends import LogEnd
from millstream.streams.views.aggregates import Stand
from millstream.streams.views.lag import CLOCKS_APART_MS, Lag, ViewLags, told_behind

PLACE = ("results", 2)
NOW_MS = 1_000_000


def noted(*looks: tuple[Stand, LogEnd | None]) -> Lag:
    lags = ViewLags()
    for stand, log in looks:
        lags.note([(PLACE, stand, log)])
    return lags.all()[PLACE]


def test_lag_is_what_lies_between_what_is_counted_and_the_end_of_the_log() -> None:
    log = LogEnd(position=40, handed=39, end=50, at_ms=NOW_MS)
    assert noted((Stand(29, 5), log)).records == 20


def test_markers_behind_the_last_record_are_no_lag() -> None:
    log = LogEnd(position=42, handed=39, end=42, at_ms=NOW_MS)
    assert noted((Stand(39, 5), log)).records == 0
    assert noted((Stand(38, 5), log)).records == 3


def test_a_log_that_was_made_anew_gives_no_lag_below_zero() -> None:
    log = LogEnd(position=0, handed=-1, end=3, at_ms=NOW_MS)
    assert noted((Stand(39, 5), log)).records == 0


def test_what_is_behind_is_counted_to_the_newest_record() -> None:
    log = LogEnd(position=40, handed=39, end=50, at_ms=NOW_MS)
    assert noted((Stand(29, 700), log), (Stand(30, 800), log)).counted_to_ms == 800


def test_a_partition_without_new_records_is_counted_to_the_answer_before_the_last() -> None:
    def at(at_ms: int) -> tuple[Stand, LogEnd]:
        return Stand(39, 5), LogEnd(position=40, handed=39, end=40, at_ms=at_ms)

    # One answer may have been on its way for long: it says nothing of when it was given.
    assert noted(at(NOW_MS)).counted_to_ms == 5
    assert noted(at(NOW_MS), at(NOW_MS)).counted_to_ms == 5
    again = noted(at(NOW_MS), at(NOW_MS + 500))
    assert again.counted_to_ms == NOW_MS - CLOCKS_APART_MS
    # What came since takes nothing back.
    behind = LogEnd(position=40, handed=39, end=44, at_ms=NOW_MS + 900)
    later = noted(at(NOW_MS), at(NOW_MS + 500), (Stand(39, 5), behind))
    assert (later.records, later.counted_to_ms) == (4, again.counted_to_ms)


def test_a_partition_that_is_read_here_no_more_is_forgotten() -> None:
    lags, log = ViewLags(), LogEnd(position=40, handed=39, end=40, at_ms=NOW_MS)
    lags.note([(PLACE, Stand(39, 5), log), (("costs", 0), Stand(-1, -1), None)])
    assert set(lags.all()) == {PLACE}
    lags.note([])
    assert not lags.all()


def test_views_are_told_that_are_seconds_behind() -> None:
    lags = {
        ("results", 0): Lag(10_000, NOW_MS - 14_000, 0),
        ("results", 1): Lag(4_039, NOW_MS - 27_000, 0),
        ("costs", 0): Lag(100, NOW_MS - 900, 0),
        ("tokens", 0): Lag(0, NOW_MS - 60_000, 0),
        ("decisions", 0): Lag(7, 0, 0),
    }
    (told,) = told_behind(lags, NOW_MS)
    assert told.endswith("results by 14039 records and 27 s, decisions by 7 records")
    assert not told_behind({("costs", 0): lags["costs", 0]}, NOW_MS)
