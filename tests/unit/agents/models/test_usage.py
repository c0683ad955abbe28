"""A report of usage is believed only where it can be true."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from millstream.agents.models.reports import bad_count, clean_report
from millstream.agents.models.usage import ModelCall
from millstream.schemas.base import Usage

ASKED = HumanMessage("x" * 3_000)
ANSWER = AIMessage("word")


def told(read: Any, wrote: Any, **parts: Any) -> dict[str, Any]:
    return {"input_tokens": read, "output_tokens": wrote, **parts}


@pytest.mark.parametrize(
    ("reports", "usage"),
    [
        ([(0, told(9, 3))], (9, 3)),
        ([(1, told(9, 1)), (2, told(9, 2)), (2, told(9, 2))], (9, 2)),
        ([(1, told(9, 1)), (2, told(9, 1)), (3, told(9, 1))], (9, 3)),
        ([(0, told(9, 0)), (5, told(0, 4))], (9, 4)),
        ([(1, told(9, 2)), (2, told(9, 1))], (9, 3)),
    ],
)
def test_several_reports_of_a_call_come_to_one(
    reports: list[tuple[int, dict[str, Any]]], usage: tuple[int, int]
) -> None:
    call = ModelCall([ASKED], {})
    for pieces, report in reports:
        call.pieces = pieces
        call.report(report)
    got, doubt = call.believed(call.told(), ANSWER, 256)
    assert (got.input_tokens, got.output_tokens, doubt) == (*usage, None)


def test_only_the_side_that_cannot_be_true_is_estimated() -> None:
    call = ModelCall([ASKED], {})
    usage, doubt = call.believed(told(700, 2**62), ANSWER, 256)
    assert (usage.input_tokens, usage.output_tokens) == (700, 4 + 64)
    assert doubt is not None
    assert str(2**62) in doubt
    usage, doubt = call.believed(told(90_000, 5), ANSWER, 256)
    assert (usage.input_tokens, usage.output_tokens) == (3_000 + 2 * 16, 5)
    assert doubt is not None


def test_media_may_be_more_tokens_than_bytes() -> None:
    shown = HumanMessage([{"type": "image_url", "image_url": {"url": "https://example.org/a"}}])
    usage, doubt = ModelCall([shown], {}).believed(told(90_000, 5), ANSWER, 256)
    assert (usage.input_tokens, doubt) == (90_000, None)


def test_reasoning_that_is_not_seen_may_pass_the_limit() -> None:
    parts = {"output_token_details": {"reasoning": 5_000}}
    usage, doubt = ModelCall([ASKED], {}).believed(told(700, 5_010, **parts), ANSWER, 256)
    assert (usage.output_tokens, usage.reasoning_tokens, doubt) == (5_010, 5_000, None)


def test_parts_of_a_figure_are_kept() -> None:
    read = {"cache_read": 600, "ephemeral_5m_input_tokens": 50, "cache_creation": 0, "audio": 7}
    read["ephemeral_1h_input_tokens"] = 30
    report = told(700, 5, input_token_details=read, output_token_details={"audio": None})
    assert ModelCall([ASKED], {}).believed(report, ANSWER, 256)[0] == Usage(
        input_tokens=700,
        output_tokens=5,
        cache_read_tokens=600,
        cache_write_tokens=80,
        cache_write_1h_tokens=30,
        audio_input_tokens=7,
    )


@pytest.mark.parametrize(
    "report",
    [
        told(-1, 5),
        told(1.5, 5),
        told(10, 2**64),
        told(10, 5, input_token_details={"cache_read": -1}),
        told(0, 5),
        told(10, 0),
        None,
    ],
)
def test_what_cannot_be_true_is_named(report: dict[str, Any] | None) -> None:
    usage, doubt = ModelCall([ASKED], {}).believed(report, ANSWER, 256)
    assert doubt is not None
    assert 0 < usage.input_tokens <= 3_100
    assert 0 < usage.output_tokens <= 68


def test_a_report_of_nulls_is_none_yet() -> None:
    assert clean_report({"prompt_tokens": None, "completion_tokens": None}) == (None, None)


def test_reasoning_beside_the_output_is_added_to_it() -> None:
    xai = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 35,
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    cleaned, doubt = clean_report(xai)
    assert doubt is None
    assert cleaned is not None
    assert cleaned["completion_tokens"] == 25


def test_reports_of_gemini_are_added_up() -> None:
    call = ModelCall([ASKED], {})
    for report in (told(0, 40), told(10, 5), told(-2, 0)):
        call.report(report, "google_genai")
    got, doubt = call.believed(call.told(), ANSWER, 256)
    assert (got.input_tokens, got.output_tokens, doubt) == (8, 45, None)


@pytest.mark.parametrize(
    ("cached", "read"), [({"cache_read": 2_000}, 2_010), ({"cache_creation": 2_000}, 2_010)]
)
def test_cached_tokens_beside_the_input_are_added_if_the_total_says_so(
    cached: dict[str, int], read: int
) -> None:
    report = told(10, 5, input_token_details=cached, total_tokens=2_015)
    got, doubt = ModelCall([ASKED], {}).believed(report, ANSWER, 256)
    assert (got.input_tokens, doubt) == (read, None)
    got, doubt = ModelCall([ASKED], {}).believed({**report, "total_tokens": 15}, ANSWER, 256)
    assert got.cache_read_tokens == got.cache_write_tokens == 0
    assert doubt is not None


@pytest.mark.parametrize(
    "parts",
    [
        {"input_token_details": {"cache_read": 4_000}},
        {"input_token_details": {"audio": 11}},
        {"output_token_details": {"reasoning": 6}},
    ],
)
def test_more_of_a_part_than_can_be_is_named(parts: dict[str, Any]) -> None:
    _, doubt = ModelCall([ASKED], {}).believed(told(10, 5, **parts), ANSWER, 256)
    assert doubt is not None


def test_what_is_described_to_a_model_counts_as_sent() -> None:
    for name in ("tools", "format", "output_config"):
        usage = ModelCall([], {name: {"x": "y" * 500}, "model": "m"}).estimate(1)
        assert 500 <= usage.input_tokens <= 540


def test_thoughts_count_as_written() -> None:
    thought = AIMessage([{"type": "thinking", "thinking": "x" * 500}])
    usage, _ = ModelCall([ASKED], {}).believed(None, thought, 1_000)
    assert usage.output_tokens == 500 + 64


@pytest.mark.parametrize(
    ("value", "bad"),
    [(5, None), (None, None), ({"a": 1, "b": None}, None), ({"a": {"b": 1.5}}, 1.5), (True, True)],
)
def test_what_is_no_count_is_found(value: object, bad: object) -> None:
    assert bad_count(value) == bad
