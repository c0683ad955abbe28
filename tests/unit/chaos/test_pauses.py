"""What a cancelled request changes for those behind it, and when a call was not to be."""

from __future__ import annotations

from dataclasses import replace

from millstream.schemas.base import Address
from millstream.schemas.events import AgentResult
from tests import making
from tests.chaos.calls import Call
from tests.chaos.model_server import NOTHING, expected_answer
from tests.chaos.pauses import Pause, as_it_came, ran_though_cancelled, ran_while_paused
from tests.harness.audit import Asked


def _asked(name: str, before: str, session: str = "s") -> Asked:
    return Asked(name, "ada", session, refused=False, answer=expected_answer(name, before))


def _result(name: str, status: str) -> AgentResult:
    return AgentResult.model_validate(
        {
            "user_id": "ada",
            "request_id": name,
            "session_id": "s",
            "at_ms": 1,
            "accepted_at_ms": 1,
            "status": status,
            "source": Address(topic="requests", partition=0, offset=1),
        }
    )


LOAD = (_asked("r1", NOTHING), _asked("r2", "r1"), _asked("r3", "r2"))


def test_what_comes_behind_a_cancelled_request_follows_the_one_before_that() -> None:
    results = [_result("r1", "completed"), _result("r2", "cancelled"), _result("r3", "completed")]
    first, second, third = as_it_came(LOAD, {"r2"}, results)
    assert first == LOAD[0]
    assert (second.status, second.answer) == ("cancelled", None)
    assert third.answer == expected_answer("r3", "r1")


def test_a_request_that_nobody_cancelled_is_not_taken_for_cancelled() -> None:
    assert as_it_came(LOAD, set(), [_result("r2", "cancelled")]) == LOAD


def test_a_refused_request_may_be_cancelled_before_it_is_decided_on() -> None:
    refused = replace(LOAD[1], refused=True, answer=None)
    (one,) = as_it_came([refused], {"r2"}, [_result("r2", "cancelled")])
    assert one.status == "cancelled"
    (one,) = as_it_came([refused], {"r2"}, [_result("r2", "rejected")])
    assert one.status == "rejected"


def test_a_call_between_a_pause_and_its_end_is_named() -> None:
    pause = Pause(LOAD[0], alone=False, held_ms=1000, lifted_ms=9000)
    times = {"r1": 900, "r2": 1500, "r3": 9500}  # before; under way; resumed
    calls = [Call("a-1", name, at) for name, at in times.items()]
    assert ran_while_paused([pause], LOAD, calls) == ()
    late = Call("a-1", "r3", 5000)
    assert ran_while_paused([pause], LOAD, [*calls, late]) == (
        "r3 was called 4.0 s after it was paused",
    )


def test_a_pause_of_a_request_concerns_no_other_one() -> None:
    pause = Pause(LOAD[0], alone=True, held_ms=1000, lifted_ms=9000)
    assert ran_while_paused([pause], LOAD, [Call("a-1", "r2", 5000)]) == ()


def test_a_call_after_its_sessions_cancel_is_named_unless_its_request_came_later() -> None:
    mark = making.obeyed(
        session_id="s",
        at_ms=5000,
        until_ms=4000,
        source=Address(topic="control", partition=0, offset=1),
    )
    came = {"r1": 4000, "r2": 4001}
    results = [
        _result(name, "cancelled").model_copy(update={"accepted_at_ms": at_ms})
        for name, at_ms in came.items()
    ]
    calls = [Call("a-1", "r1", 5900), Call("a-1", "r2", 9000)]
    assert ran_though_cancelled([mark], results, calls) == ()
    assert ran_though_cancelled([mark], results, [*calls, Call("a-1", "r1", 7000)]) == (
        "r1 was called 2.0 s after its session was cancelled",
    )
