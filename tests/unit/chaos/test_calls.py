from __future__ import annotations

import json
from pathlib import Path

from millstream.schemas.base import Address
from millstream.schemas.events import AgentResult
from tests.chaos.calls import (
    Call,
    Kill,
    Wake,
    out_of_order,
    read_calls,
    repeated,
    resumed_after_s,
)
from tests.harness.audit import Asked

FIRST = Asked("r1", "u", "s", refused=False, answer="")
REFUSED = Asked("r2", "u", "s", refused=True, answer=None)
SECOND = Asked("r3", "u", "s", refused=False, answer="")
ELSEWHERE = Asked("r4", "u", "t", refused=False, answer="")
LOAD = (FIRST, REFUSED, SECOND, ELSEWHERE)


def test_a_log_is_read_with_calls_that_never_ended(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    lines = [
        {"call": 0, "event": "start", "at_ms": 1.0, "worker": "a", "request_id": "r1"},
        {"call": 1, "event": "start", "at_ms": 2.0, "worker": "b", "request_id": "r4"},
        {"call": 0, "event": "effect", "at_ms": 2.5, "key": "k"},
        {"call": 0, "event": "end", "at_ms": 3.0, "finished": True},
    ]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read_calls(log) == (Call("a", "r1", 1.0, 3.0, finished=True), Call("b", "r4", 2.0))


def test_a_call_after_its_run_was_completed_is_repeated() -> None:
    result = AgentResult(
        request_id="r1",
        user_id="u",
        session_id="s",
        status="completed",
        at_ms=1000,
        accepted_at_ms=0,
        source=Address(topic="requests", partition=0, offset=0),
    )
    cut_off, done = Call("a", "r1", 1, 2, finished=True), Call("b", "r1", 900, 950, finished=True)
    assert repeated([cut_off, done, Call("c", "r2", 2000)], [result]) == ()
    told = "r1 was called by c after its result was on the log"
    assert repeated([done, Call("c", "r1", 2000)], [result]) == (told,)
    # Of a worker that was stopped with a call under way, no more than that.
    wakes = [Wake("c", 1990)]
    assert repeated([done, Call("c", "r1", 2000)], [result], wakes) == ()
    for late in (Call("c", "r1", 2990), Call("d", "r1", 2000)):
        assert len(repeated([done, late], [result], wakes)) == 1


def test_a_call_before_the_run_ahead_was_answered_is_out_of_order() -> None:
    early = (
        Call("a", "r1", 1, 5, finished=True),
        Call("b", "r3", 4, 6, finished=True),
        Call("b", "r4", 4, 6, finished=True),
    )
    assert out_of_order(early, LOAD) == ("r3 was called by b before r1 was answered",)
    assert out_of_order([early[0], Call("b", "r3", 5, 6)], LOAD) == ()


def test_a_run_is_resumed_when_a_call_that_was_cut_off_is_made_anew() -> None:
    calls = (
        Call("a", "r1", 100, 200, finished=True),
        Call("a", "r3", 900, 1001),
        Call("b", "r4", 1100, 1200, finished=True),
        Call("b", "r3", 8000, 8100, finished=True),
    )
    assert resumed_after_s(calls, [Kill("a", 1000)]) == (7.0,)
    assert resumed_after_s(calls, [Kill("b", 1000)]) == ()
