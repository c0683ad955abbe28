from __future__ import annotations

from millstream.gateway.checks.views import views_found
from millstream.streams.views.group_lag import GroupLag

NOW_MS = 1_000_000


def test_views_that_are_seconds_behind_are_named_with_what_they_lack() -> None:
    lags = {"results": GroupLag(14_039, NOW_MS - 27_000), "costs": GroupLag(8, NOW_MS - 900)}
    (found,) = views_found(lags, now_ms=NOW_MS)
    assert found.level == "note"
    assert "results by 14039 records, the first of them 27 s old" in found.told
    assert "costs" not in found.told
    assert found.remedy


def test_views_that_count_what_came_just_now_are_as_they_should_be() -> None:
    (found,) = views_found({"costs": GroupLag(8, NOW_MS - 900)}, now_ms=NOW_MS)
    assert found.level == "ok"


def test_views_that_never_counted_anything_are_told() -> None:
    (found,) = views_found(None, now_ms=NOW_MS)
    assert found.level == "note"
