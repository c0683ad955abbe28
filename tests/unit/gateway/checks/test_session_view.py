from __future__ import annotations

import pytest

from millstream.gateway.checks.views import session_view_found
from millstream.streams.sessions.in_redis.marks import Stand
from millstream.streams.views.session_stands import ViewCompared


@pytest.mark.parametrize(
    ("stands", "level", "told"),
    [
        ({"sessions/0": Stand(5), "results/1": Stand(0)}, "ok", "has what the log has"),
        ({}, "note", "is empty, or was emptied"),
        ({"sessions/0": Stand(2, 5), "results/1": Stand(0)}, "note", "3 records are left"),
        ({"sessions/0": Stand(8), "results/1": Stand(0)}, "wrong", "more of sessions/0"),
    ],
)
def test_view_is_told_of_by_its_marks(stands: dict[str, Stand], level: str, told: str) -> None:
    view = ViewCompared(stands, {"sessions/0": 5, "results/1": 0})
    (finding,) = session_view_found(view)
    assert (finding.name, finding.level) == ("session view", level)
    assert told in finding.told
    assert bool(finding.remedy) == (level != "ok")
