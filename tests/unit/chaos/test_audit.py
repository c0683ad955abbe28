from __future__ import annotations

import random
from dataclasses import replace

import pytest

from millstream.schemas.base import Address
from millstream.schemas.events import (
    AgentResult,
    AgentToken,
)
from tests import making
from tests.chaos.audit import Records, Verdict, audit
from tests.chaos.load import Asked, plan_load

SOURCE = Address(topic="requests", partition=0, offset=0)


def token(one: Asked, attempt: int, seq: int, text: str) -> AgentToken:
    return making.token(
        user_id=one.user_id,
        session_id=one.session_id,
        request_id=one.request_id,
        attempt=attempt,
        seq=seq,
        text=text,
    )


def result(one: Asked) -> AgentResult:
    return making.result(
        user_id=one.user_id,
        session_id=one.session_id,
        request_id=one.request_id,
        status="rejected" if one.refused else "completed",
        output=one.answer,
        attempt=0 if one.refused else 2000,
        last_seq=-1 if one.refused else 1,
        source=SOURCE,
        accepted_at_ms=0,
    )


def sound(load: tuple[Asked, ...]) -> Records:
    """All that a load leaves when nothing went wrong but one attempt that was cut off."""
    runs = [one for one in load if one.answer is not None]
    tokens = [token(runs[0], 1000, 0, "cut ")]
    for one in runs:
        assert one.answer is not None
        half = len(one.answer) // 2
        tokens += [
            token(one, 2000, 0, one.answer[:half]),
            token(one, 2000, 1, one.answer[half:]),
        ]
    begun = [(runs[0], 1000), *((one, 2000) for one in runs)]
    return Records(
        requests=[
            making.request(user_id=one.user_id, request_id=one.request_id, input="") for one in load
        ],
        results=[result(one) for one in load],
        tokens=tokens,
        decisions=[
            making.decision(
                user_id=one.user_id,
                session_id=one.session_id,
                request_id=one.request_id,
                admitted=not one.refused,
                generation=2,
                source=SOURCE,
            )
            for one in load
        ],
        attempts=[
            making.attempt(
                user_id=one.user_id,
                session_id=one.session_id,
                request_id=one.request_id,
                attempt=attempt,
                reserved_micros=1,
                price_digest="",
            )
            for one, attempt in begun
        ],
        costs=[
            making.cost(
                user_id=one.user_id,
                session_id=one.session_id,
                request_id=one.request_id,
                attempt=attempt,
                cost_micros=1,
                price_digest="",
            )
            for one, attempt in begun
        ],
        checkpoints=[
            making.checkpoint(
                user_id=one.user_id,
                session_id=one.session_id,
                request_id=one.request_id,
                checkpoint_id=one.request_id,
            )
            for one in runs
        ],
    )


@pytest.fixture
def load() -> tuple[Asked, ...]:
    return plan_load(200, random.Random(7))  # noqa: S311  only to be repeatable


def faults(verdict: Verdict) -> dict[str, int]:
    kinds = {
        "lost": verdict.lost,
        "twice": verdict.twice,
        "out_of_order": verdict.out_of_order,
        "wrong_text": verdict.wrong_text,
    }
    return {kind: len(found) for kind, found in kinds.items() if found}


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


def test_a_missing_cost_is_lost(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    assert faults(audit(load, replace(records, costs=records.costs[1:]))) == {"lost": 1}


def test_an_attempt_that_is_charged_for_twice_is_found(load: tuple[Asked, ...]) -> None:
    records = sound(load)
    again = [*records.costs, records.costs[3]]
    assert faults(audit(load, replace(records, costs=again))) == {"twice": 1}


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
