"""Jobs of one session run one at a time and in order; those of others run beside them."""

from __future__ import annotations

import asyncio

import pytest

from millstream.streams.lane.queue.session_queues import Job, SessionQueues
from tests.support import eventually

pytestmark = pytest.mark.promise("P4")


class Work:
    """Jobs that wait to be let go, and what became of them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def job(self, name: str, failure: BaseException | None = None) -> Job:
        gate = self._gates[name] = asyncio.Event()

        async def work() -> None:
            self.begun.append(name)
            try:
                await gate.wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            if failure is not None:
                raise failure
            self.ended.append(name)

        return work

    def let_go(self, *names: str) -> None:
        for name in names:
            self._gates[name].set()


async def test_jobs_of_a_session_run_one_at_a_time_in_order() -> None:
    work, failures = Work(), list[BaseException]()
    queues = SessionQueues(failures.append)
    for name in ("a1", "a2", "a3"):
        queues.submit("a", work.job(name))
    work.let_go("a3", "a2")
    await eventually(lambda: work.begun == ["a1"])
    work.let_go("a1")
    await eventually(lambda: work.ended == ["a1", "a2", "a3"])
    assert failures == []


async def test_jobs_of_different_sessions_run_side_by_side() -> None:
    work = Work()
    queues = SessionQueues(lambda _: None)
    for session in "abc":
        queues.submit(session, work.job(session))
    await eventually(lambda: sorted(work.begun) == ["a", "b", "c"])
    assert len(queues.tasks) == 3
    work.let_go("a", "b", "c")
    await eventually(lambda: not queues.tasks)


async def test_a_session_whose_queue_ran_empty_can_be_used_again() -> None:
    work = Work()
    queues = SessionQueues(lambda _: None)
    for name in ("first", "second"):
        queues.submit("a", work.job(name))
        work.let_go(name)
        await eventually(lambda: not queues.tasks)
    assert work.ended == ["first", "second"]


async def test_after_a_failure_nothing_of_that_session_overtakes_it() -> None:
    work, failures = Work(), list[BaseException]()
    queues = SessionQueues(failures.append)
    broken = ValueError("broken")
    queues.submit("a", work.job("a1", broken))
    queues.submit("a", work.job("a2"))
    queues.submit("b", work.job("b1"))
    work.let_go("a1", "a2", "b1")
    await eventually(lambda: failures == [broken] and work.ended == ["b1"])
    queues.submit("a", work.job("a3"))
    assert not queues.tasks
    assert work.begun == ["a1", "b1"]


async def test_cancelling_stops_what_runs_and_forgets_what_waits() -> None:
    work, failures = Work(), list[BaseException]()
    queues = SessionQueues(failures.append)
    for name in ("a1", "a2"):
        queues.submit("a", work.job(name))
    queues.submit("b", work.job("b1"))
    await eventually(lambda: len(work.begun) == 2)
    await queues.cancel()
    assert sorted(work.cancelled) == ["a1", "b1"]
    assert (work.ended, failures, queues.tasks) == ([], [], set())


@pytest.mark.parametrize("raised", [asyncio.CancelledError(), SystemExit(1), KeyboardInterrupt()])
async def test_a_job_that_cancels_itself_or_exits_is_a_failure_and_no_other_session_notices(
    raised: BaseException,
) -> None:
    work, failures = Work(), list[BaseException]()
    queues = SessionQueues(failures.append)
    queues.submit("a", work.job("a1", raised))
    queues.submit("b", work.job("b1"))
    work.let_go("a1", "b1")
    await eventually(lambda: len(failures) == 1 and work.ended == ["b1"])
