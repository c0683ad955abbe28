"""When sessions are to be looked at: none is missed, and none is kept twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.streams.lane.sessions.due_times import DueTimes

PLACES = st.integers(0, 5)
TIMES = st.integers(0, 100)


@given(st.lists(st.tuples(st.sampled_from(["add", "pop"]), TIMES, PLACES)))
def test_each_comes_once_at_the_earliest_of_its_times(steps: list[tuple[str, int, int]]) -> None:
    times, known = DueTimes(), dict[int, int]()
    for step, at_ms, place in steps:
        if step == "add":
            earlier = at_ms < known.get(place, at_ms + 1)
            assert times.add(at_ms, place) is earlier
            if earlier:
                known[place] = at_ms
        else:
            due = min(known.values(), default=None)
            popped = times.pop(at_ms)
            if due is None or due > at_ms:
                assert popped is None
            else:
                assert popped is not None
                assert known.pop(popped) == due
        assert len(times) == len(known)
        assert times.first == min(known.values(), default=None)


def test_a_session_that_is_put_off_again_and_again_takes_no_more_memory() -> None:
    times = DueTimes()
    times.add_all([(50, 1), (7, 2)])
    for at_ms in range(100, 10_000):
        assert not times.add(at_ms, 1)
    assert (len(times), len(times._heap)) == (2, 2)
    for at_ms in range(100_000, 50, -1):
        times.add(at_ms, 3)
    assert len(times._heap) < 1_100
    assert [times.pop(60) for _ in range(4)] == [2, 1, 3, None]
