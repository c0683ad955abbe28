from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from millstream.schemas.base import Usage
from millstream.schemas.events import CostRecorded
from tests.chaos.provider.bill import (
    Billed,
    came_back_early,
    compare,
    ended_otherwise,
    noted_wrongly,
    read_bill,
)
from tests.chaos.provider.script import Script, _asked
from tests.making import result

CALL = Billed("r", 0.0, read=10, wrote=5, told=True, not_before_ms=None)


def cost(read: int, wrote: int, micros: int, *, estimated: bool = False) -> CostRecorded:
    return CostRecorded(
        user_id="u", request_id="r", session_id="s", model="m", at_ms=1, cost_micros=micros,
        usage=Usage(input_tokens=read, output_tokens=wrote), price_digest="d", estimated=estimated,
    )  # fmt: skip


def test_what_was_told_has_to_be_charged_exactly() -> None:
    assert compare([CALL], [cost(10, 5, 20)]).faults == ()
    assert compare([CALL, CALL], [cost(10, 5, 20), cost(10, 5, 20)]).exact == 1
    for wrong in (cost(11, 5, 21), cost(10, 5, 19), cost(10, 5, 20, estimated=True)):
        (fault,) = compare([CALL], [wrong]).faults
        assert "all of it was told" in fault
    assert len(compare([CALL], []).faults) == 1


def test_what_was_not_told_is_charged_as_an_estimate_and_never_under_it() -> None:
    untold = replace(CALL, told=False)
    bill = compare([untold], [cost(20, 10, 40, estimated=True)])
    assert (bill.faults, bill.estimated) == ((), 1)
    assert "2.0 times what the provider counted, 0 under it" in str(bill)
    for under in (cost(9, 10, 29, estimated=True), cost(20, 4, 28, estimated=True)):
        assert "under it" in compare([untold], [under]).faults[0]
    assert "no record" in compare([untold], [cost(20, 10, 40)]).faults[0]


def test_a_log_is_read_with_calls_that_never_ended(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    begun = {"call": 0, "event": "start", "at_ms": 1.0, "worker": "a", "request_id": "r"}
    ended = {"call": 0, "event": "end", "at_ms": 3.0, "finished": True, "read": 10, "wrote": 5,
             "told": True, "not_before_ms": None}  # fmt: skip
    lines = [begun, {**begun, "call": 1}, ended]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read_bill(log) == (replace(CALL, started_ms=1.0),)


def test_a_call_before_its_time_is_named() -> None:
    told = replace(CALL, not_before_ms=1000.0)
    assert came_back_early([told, replace(CALL, started_ms=1000.0)]) == ()
    assert len(came_back_early([told, replace(CALL, started_ms=990.0)])) == 1
    assert came_back_early([told, replace(CALL, request_id="other", started_ms=1.0)]) == ()


def test_effects_and_reasons_are_those_of_the_script(tmp_path: Path) -> None:
    name = Script(0, "odd", ("call-note", "eof")).request_id
    asked = _asked(Script.of(name))
    notes = tmp_path / "notes.log"
    notes.write_text(f"{name}\n")
    assert noted_wrongly([asked], [notes]) == ()
    assert len(noted_wrongly([asked], [])) == 1
    assert len(noted_wrongly([asked], [notes, notes])) == 1
    assert ended_otherwise([asked], [result(request_id=name)]) == ()
    failed = _asked(Script(1, "chat", ("quota",)))
    assert len(ended_otherwise([failed], [result(request_id=failed.request_id)])) == 1
