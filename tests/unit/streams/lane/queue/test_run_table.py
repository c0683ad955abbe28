"""What of a session is in memory is parked once, and leaves together."""

from __future__ import annotations

from millstream.agents.factory import AgentFactory
from millstream.streams.lane.queue.run_table import RunTable
from millstream.streams.lane.runs.admission import Admission
from millstream.streams.lane.runs.run import Run
from tests import making
from tests.making import resolved

FACTORY = AgentFactory(default_model="scripted")


def run(request_id: str, session_id: str = "s1") -> Run:
    asked = resolved(request_id=request_id, session_id=session_id)
    decision = making.decision(session_id=session_id, source=asked.source)
    plan = FACTORY.plan(asked)
    return Run(asked, Admission(decision, is_new=False, plan=plan, refused=None), b"", order=7)


async def test_a_sessions_runs_are_parked_once_until_another_comes_that_is_not() -> None:
    table, first, second = RunTable(), run("r1"), run("r2")
    table.add(first)
    assert table.to_park_of_session(first.session) == (first,)
    assert table.to_park_of_session(first.session) == ()
    table.add(second)
    assert table.to_park_of_session(first.session) == (first, second)


async def test_what_is_parked_of_a_user_is_not_parked_again_for_its_sessions() -> None:
    table, first, other = RunTable(), run("r1"), run("r2", "s2")
    for one in (first, other):
        table.add(one)
    assert table.to_park_of_user(first.key[:2]) == (first, other)
    assert table.to_park_of_session(other.session) == ()


async def test_a_session_leaves_until_the_last_of_its_runs_is_gone() -> None:
    table, first, second = RunTable(), run("r1"), run("r2")
    for one in (first, second):
        table.add(one)
    table.leave(first.session)
    assert not table.remove(second)
    assert table.is_leaving(first.session)
    assert table.remove(first)
    assert not table.is_leaving(first.session)


async def test_the_last_run_of_a_session_that_stays_unblocks_nothing() -> None:
    table, only = RunTable(), run("r1")
    table.add(only)
    assert not table.remove(only)
    assert len(table) == 0
