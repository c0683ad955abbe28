"""What contradicts the promises of runs of many steps is found: each fault is put there by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from millstream.schemas.base import Reason, Usage
from millstream.schemas.events import AgentResult, AttemptStarted, CostRecorded
from millstream.schemas.journal.steps import JournalStep
from tests.chaos.steps.judge import Fact, Seen, StepCall, faults, repeated
from tests.chaos.steps.server import READ_TOKENS
from tests.harness.audit import Records

NAME = "r.1.3"
"""One step, with the tool that only a person can judge."""
IDS = {"request_id": NAME, "user_id": "u", "session_id": "s"}

ASKED = StepCall(NAME, 0, "model", 10)
SENT = StepCall(NAME, 1, "send", 30, "c0", "k0")
LAST = StepCall(NAME, 2, "model", 50, shown=("sent",))
CALLS = (ASKED, SENT, LAST)


def fact(at_ms: int, step: int, kind: str, **more: object) -> Fact:
    told = {**IDS, "attempt": 1, "step": step, "kind": kind, **more}
    return Fact(JournalStep.model_validate(told), at_ms)


ANSWERED = fact(20, 0, "answered", follows="")
INTENT = fact(25, 1, "intent", call_id="c0", key="k0", name="send", effect="ask_human")
DONE = fact(40, 2, "done", call_id="c0")
JOURNAL = (ANSWERED, INTENT, DONE)

COMPLETED = AgentResult.model_validate(
    {
        **IDS,
        "status": "completed",
        "at_ms": 60,
        "accepted_at_ms": 0,
        "source": {"topic": "requests", "partition": 0, "offset": 0},
    }
)
STARTED = AttemptStarted(
    **IDS, attempt=1, model="m", template="t", usage_max=Usage(), reserved_micros=1, price_digest=""
)


def cost(call: int, *, estimated: bool = False, attempt: int = 1) -> CostRecorded:
    return CostRecorded(
        **IDS,
        attempt=attempt,
        call=call,
        model="m",
        usage=Usage(input_tokens=READ_TOKENS + call, output_tokens=5),
        cost_micros=1,
        price_digest="",
        estimated=estimated,
        estimate_reason="cut" if estimated else None,
    )


RECORDS = Records(
    requests=(),
    results=(COMPLETED,),
    tokens=(),
    decisions=(),
    attempts=(STARTED,),
    costs=(cost(0), cost(1)),
    checkpoints=(),
)


def seen(*calls: StepCall, **effects: int) -> Seen:
    return Seen(calls, Counter(effects))


def told(calls: Seen, journal: tuple[Fact, ...] = JOURNAL, records: Records = RECORDS) -> list[str]:
    return [*repeated(calls, journal, records), *faults(calls, journal, records)]


def test_a_run_whose_calls_were_made_once_has_no_fault() -> None:
    assert told(seen(*CALLS, k0=1)) == []


def test_a_call_that_was_cut_off_may_be_made_again() -> None:
    again = replace(ASKED, at_ms=15)
    records = replace(
        RECORDS,
        attempts=(STARTED, STARTED.model_copy(update={"attempt": 2})),
        costs=(*RECORDS.costs, cost(2, estimated=True)),
    )
    assert told(seen(ASKED, again, SENT, LAST, k0=1), records=records) == []


def test_a_call_whose_answer_was_on_the_log_is_named() -> None:
    late = replace(ASKED, at_ms=28)
    assert told(seen(ASKED, late, SENT, LAST, k0=1)) == [
        "r.1.3: call 0 (model) was made 8 ms after its answer was on the log"
    ]


def test_a_call_behind_which_its_run_went_on_is_named_without_the_journal() -> None:
    back = replace(ASKED, at_ms=55)
    assert "r.1.3: call 0 (model) was made behind call 2" in told(seen(*CALLS, back, k0=1))


def test_a_call_without_an_intent_before_it_is_named() -> None:
    late = replace(INTENT, at_ms=35)
    for journal in ((ANSWERED, late, DONE), (ANSWERED, DONE)):
        found = told(seen(*CALLS, k0=1), journal)
        assert "r.1.3: call 1 (send) was made, and its intent was not on the log" in found


def test_what_was_done_twice_and_a_call_that_only_a_person_may_repeat_are_named() -> None:
    found = told(seen(ASKED, SENT, replace(SENT, at_ms=35, key="k1"), LAST, k0=2))
    assert "done 2 times: k0" in found
    assert "r.1.3: call 1 had 2 keys" in found
    assert "r.1.3: call 1 was made twice, and only a person may decide that" in found


def test_another_answer_than_the_one_shown_before_is_named() -> None:
    found = told(seen(*CALLS, replace(LAST, at_ms=55, shown=("sent again",)), k0=1))
    assert found == ["r.1.3: the model was shown ('sent',), then ('sent again',)"]


def test_a_gap_in_a_journal_is_named() -> None:
    found = told(seen(*CALLS, k0=1), (ANSWERED, INTENT, fact(40, 3, "done", call_id="c0")))
    assert found == ["r.1.3: its journal has the steps [0, 1, 3]"]


def test_a_bill_that_has_a_call_twice_or_too_many_estimates_is_named() -> None:
    twice = replace(RECORDS, costs=(*RECORDS.costs, cost(1)))
    assert told(seen(*CALLS, k0=1), records=twice) == [
        "r.1.3: calls of [100, 101, 101] tokens are billed, not of [100, 101]"
    ]
    guessed = replace(RECORDS, costs=(*RECORDS.costs, cost(2, estimated=True)))
    assert told(seen(*CALLS, k0=1), records=guessed) == [
        "r.1.3: 1 estimates, and 0 attempts were lost"
    ]


def test_a_run_may_end_in_doubt_only_where_a_call_gave_no_answer() -> None:
    doubted = COMPLETED.model_copy(
        update={"status": "failed", "reason": Reason(code="in_doubt", message="?")}
    )
    records = replace(RECORDS, results=(doubted,), costs=(cost(0),))
    assert told(seen(ASKED, SENT, k0=1), (ANSWERED, INTENT), records) == []
    (found,) = told(seen(ASKED, SENT, k0=1), JOURNAL, records)
    assert found.startswith("r.1.3: failed")
