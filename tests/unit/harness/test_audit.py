from __future__ import annotations

import random
from dataclasses import replace

import pytest

from millstream.schemas.events import (
    AgentResult,
    AgentToken,
)
from millstream.schemas.steps import AgentStep
from tests import making
from tests.chaos.load import plan_load
from tests.harness.audit import ANY_TEXT, Asked, Records, Verdict, audit


def whose(one: Asked) -> dict[str, str]:
    return {
        "user_id": one.user_id,
        "session_id": one.session_id,
        "request_id": one.request_id,
    }


def result(one: Asked) -> AgentResult:
    if one.refused:
        return making.result(**whose(one), status="rejected")
    return making.result(one.answer, **whose(one), attempt=2000, last_seq=2)


def tokens_of(one: Asked) -> list[AgentToken]:
    assert one.answer is not None
    half = len(one.answer) // 2
    texts = ("", one.answer[:half], one.answer[half:])
    return [making.token(text, seq, 2000, **whose(one)) for seq, text in enumerate(texts)]


def sound(load: tuple[Asked, ...]) -> Records:
    """All that a load leaves when nothing went wrong but one attempt that was cut off."""
    runs = [one for one in load if one.answer is not None]
    begun = [(runs[0], 1000), *((one, 2000) for one in runs)]
    return Records(
        requests=[
            making.request(user_id=one.user_id, request_id=one.request_id, input="") for one in load
        ],
        results=[result(one) for one in load],
        tokens=[
            making.token("cut ", **whose(runs[0])),
            *(token for one in runs for token in tokens_of(one)),
        ],
        decisions=[making.decision(**whose(one), admitted=not one.refused) for one in load],
        attempts=[making.attempt(**whose(one), attempt=attempt) for one, attempt in begun],
        costs=[making.cost(**whose(one), attempt=attempt) for one, attempt in begun],
        checkpoints=[making.checkpoint(**whose(one)) for one in runs],
    )


@pytest.fixture
def load() -> tuple[Asked, ...]:
    return plan_load(200, random.Random(7))  # noqa: S311  only to be repeatable


def faults(verdict: Verdict) -> dict[str, int]:
    return {kind: len(found) for kind, found in verdict.faults.items()}


def test_what_is_sound_has_no_fault(load: tuple[Asked, ...]) -> None:
    verdict = audit(load, sound(load))
    assert faults(verdict) == {}
    assert (verdict.requests, verdict.results, verdict.superseded) == (200, 200, 1)


def test_a_load_holds_runs_and_refusals_and_sessions_of_several(load: tuple[Asked, ...]) -> None:
    assert any(one.refused for one in load)
    assert any(one.answer is not None and "follows r0" in one.answer for one in load)
    assert max([one.session for one in load].count(one.session) for one in load) > 3


def test_a_missing_result_is_lost(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    assert faults(audit(load, replace(records, results=records.results[1:]))) == {"lost": 1}


def test_an_attempt_that_nobody_charged_for_is_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    assert faults(audit(load, replace(records, costs=records.costs[1:]))) == {"uncharged": 1}


def test_a_result_that_says_another_sum_than_its_costs_is_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    more = [records.costs[0].model_copy(update={"cost_micros": 3}), *records.costs[1:]]
    assert faults(audit(load, replace(records, costs=more))) == {"uncharged": 1}


def test_where_nothing_is_priced_no_attempt_needs_a_mark(load: tuple[Asked, ...]) -> None:
    free = replace(sound(load), attempts=[])
    assert faults(audit(load, free, priced=False)) == {}
    assert set(faults(audit(load, free))) == {"lost", "twice"}


def test_an_attempt_that_is_charged_for_twice_is_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    again = [*records.costs, records.costs[3]]
    assert faults(audit(load, replace(records, costs=again))) == {"twice": 1}


def test_an_attempt_may_have_a_cost_for_each_of_its_calls_without_a_gap(
    load: tuple[Asked, ...],
) -> None:
    records = sound(load)
    for call, found in ((1, {}), (2, {"twice": 1})):
        more = [*records.costs, records.costs[3].model_copy(update={"call": call})]
        assert faults(audit(load, replace(records, costs=more))) == found


def test_a_run_without_a_mark_of_its_attempt_is_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    unmarked = replace(records, attempts=records.attempts[:-1])
    assert faults(audit(load, unmarked)) == {"lost": 1, "twice": 1}


def test_a_second_result_is_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    doubled = [*records.results, records.results[-1]]
    assert faults(audit(load, replace(records, results=doubled))) == {"twice": 1}


def test_results_of_a_session_in_another_order_are_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    turned = audit(load, replace(records, results=records.results[::-1]))
    assert turned.out_of_order
    assert set(faults(turned)) == {"out_of_order"}


def test_an_attempt_that_follows_another_one_without_saying_so_is_found(
    load: tuple[Asked, ...],
) -> None:
    records = sound(load)
    cut, announced, *others = records.tokens
    told = [cut, announced.model_copy(update={"text": "?"}), *others]
    found = audit(load, replace(records, tokens=told)).wrong_text
    assert any("does not say so" in fault for fault in found)


def test_of_a_request_of_any_text_only_its_tokens_say_what_it_must_be(
    load: tuple[Asked, ...],
) -> None:
    records = sound(load)
    unknown = [replace(one, answer=ANY_TEXT) if one.runs else one for one in load]
    assert faults(audit(unknown, records)) == {}
    wrong = [records.results[0].model_copy(update={"output": "?"}), *records.results[1:]]
    assert set(faults(audit(unknown, replace(records, results=wrong)))) == {"wrong_text"}


@pytest.mark.parametrize("broken", ["gap", "repeated", "other_text", "newer_attempt"])
def test_tokens_that_do_not_make_the_result_are_found(load: tuple[Asked, ...], broken: str) -> None:
    records = sound(load)
    first, *tokens = records.tokens
    last = tokens[-1]
    changed = {
        "gap": tokens[:-2] + tokens[-1:],
        "repeated": [*tokens, last],
        "other_text": [*tokens[:-1], last.model_copy(update={"text": "?"})],
        "newer_attempt": [*tokens, last.model_copy(update={"attempt": 3000, "seq": 0})],
    }[broken]
    assert "wrong_text" in faults(audit(load, replace(records, tokens=[first, *changed])))


def test_an_answer_that_forgot_the_session_is_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    forgot = [
        one.model_copy(update={"output": one.output and one.output.replace("follows r", "x")})
        for one in records.results
    ]
    assert "wrong_text" in faults(audit(load, replace(records, results=forgot)))


@pytest.mark.parametrize("broken", ["gap", "lost", "uncounted"])
def test_steps_that_are_not_those_that_the_result_counts_are_found(
    load: tuple[Asked, ...], broken: str
) -> None:
    records = sound(load)
    counts, *others = records.results
    steps = [
        AgentStep(
            user_id=counts.user_id,
            session_id=counts.session_id,
            request_id=counts.request_id,
            at_ms=1,
            attempt=counts.attempt,
            seq=seq,
            kind="model_start",
        )
        for seq in range(3)
    ]
    results = [counts.model_copy(update={"steps": 3}), *others]
    assert faults(audit(load, replace(records, results=results, steps=steps))) == {}
    results, steps = {
        "gap": (results, [steps[0], *steps[2:]]),
        "lost": (results, steps[:-1]),
        "uncounted": (records.results, steps),
    }[broken]
    found = audit(load, replace(records, results=results, steps=steps))
    assert set(faults(found)) == {"wrong_steps"}
