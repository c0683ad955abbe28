"""A case that cannot be played, or does not come out right, says where and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.quick_time import run_quickly
from tests.providers.case import Case, check, in_memory
from tests.providers.case_file import CaseRefused, read_case, read_cases

ASKED = {"user_id": "ada", "input": "say it"}


def told(**changed: Any) -> dict[str, Any]:
    """Give what a file says that comes out right, but for what is changed."""
    case = {
        "name": "it answers",
        "templates": ["chat_agent"],
        "requests": [ASKED],
        "server": {"say it": [{"says": ["All is well"]}]},
        "right": [{"status": "completed", "output": "All is well", "estimated": [False]}],
    }
    return {**case, **changed}


def written(folder: Path, case: Any, name: str = "case.json") -> Path:
    path = folder / name
    path.write_text(case if isinstance(case, str) else json.dumps(case))
    return path


async def play(case: Case) -> None:
    async with in_memory(case) as bench:
        await check(case, case.templates[0], bench)


def answering(**answer: Any) -> dict[str, Any]:
    return told(server={"say it": [answer]})


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ('{"name": ', " is no JSON: Expecting value: line 1 column 10"),
        ([], "the case is no object"),
        ({"name": "it answers"}, "the case has no 'requests'"),
        (told(templates="chat_agent"), "'chat_agent' is no list"),
        (told(price={}), "the case has a key 'price', which nothing reads; is it 'prices'?"),
        (told(template={"cut_answr": "fail"}), "`template` has a key 'cut_answr'"),
        (
            told(requests=[{**ASKED, "modle": "local"}]),
            "request 0 has a key 'modle', which nothing reads; is it 'model'?",
        ),
        (
            answering(say=["x"]),
            "answer 0 to 'say it' has a key 'say', which nothing reads; is it 'says'?",
        ),
        (answering(calls=[{"nme": "add"}]), "call 0 of answer 0 to 'say it' has a key 'nme'"),
        (
            answering(refuse_if_named={"seed": {"statuss": 400}}),
            "'seed' of answer 0 to 'say it' has a key 'statuss', which nothing reads; is it 'stat",
        ),
        (
            told(right=[{"outptu": "x"}]),
            "`right` of request 0 has a key 'outptu', which nothing reads; is it 'output'?",
        ),
        (
            told(right=[{"usage": {"input": 1}}]),
            "`usage` in `right` of request 0 has a key 'input'",
        ),
        (told(right=[{}, {}]), "`right` has 2 entries for 1 requests"),
        (
            told(requests=[{**ASKED, "input": "say  it"}]),
            "`server` has no answers to 'say  it', which request 0 asks; is it 'say it'?",
        ),
    ],
)
def test_a_file_that_cannot_be_played_is_refused_by_its_name_and_why(
    case: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises(CaseRefused) as refused:
        read_case(written(tmp_path, case))
    assert str(refused.value).startswith("case.json")
    assert why in str(refused.value)


def test_a_model_that_no_provider_serves_needs_no_answers(tmp_path: Path) -> None:
    asked = [{**ASKED, "model": "scripted:say: hi"}]
    assert read_case(written(tmp_path, told(requests=asked, server={}))).requests == tuple(asked)


def test_a_bad_file_fails_its_own_test_alone(tmp_path: Path) -> None:
    written(tmp_path, "{", "bad.json")
    written(tmp_path, told(), "good.json")
    bad, good = read_cases(tmp_path)
    run_quickly(play(good))
    with pytest.raises(CaseRefused, match=r"bad\.json"):
        run_quickly(play(bad))


def test_what_does_not_come_out_right_is_told_field_by_field(tmp_path: Path) -> None:
    right = {
        "status": "failed",
        "output": "All is well",
        "attempts": 2,
        "cost_micros_max": 5,
        "second_call_at_s": 1,
        "not": {"finish_reason": "stop"},
    }
    case = read_case(written(tmp_path, told(right=[right])))
    with pytest.raises(AssertionError) as wrong:
        run_quickly(play(case))
    assert str(wrong.value).splitlines() == [
        "request 0 ('say it') did not come out right:",
        "  status: wanted 'failed', got 'completed'",
        "  attempts: wanted 2, got 1",
        "  cost_micros_max: wanted 5, got 60",
        "  second_call_at_s: wanted 1, got None",
        "  finish_reason: wanted anything but what it is, 'stop'",
    ]


def test_a_run_that_failed_tells_its_reason_where_it_should_not_have(tmp_path: Path) -> None:
    case = answering(status=400, json={"error": {"message": "no such thing"}})
    with pytest.raises(AssertionError, match=r"its reason: .*no such thing"):
        run_quickly(play(read_case(written(tmp_path, case))))
