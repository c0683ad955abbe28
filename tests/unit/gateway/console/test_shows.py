"""What `submit` shows: the answer on standard output, the rest on standard error."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

import pytest

from millstream.gateway.console.follow import Told
from millstream.gateway.console.shows import TextShow, ending
from millstream.schemas.base import Address, Reason, Usage
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.steps import AgentStep
from millstream.streams.bus.answer import Answer
from millstream.streams.bus.api import Delivery
from tests import making


def shown(
    capsys: pytest.CaptureFixture[str],
    *events: AgentToken | AgentStep | AgentResult,
    model_calls: bool = True,
) -> tuple[str, str]:
    """Give what stands on standard output and on standard error after these records."""
    show, answer = TextShow(model_calls=model_calls), Answer(steps=True)
    for offset, event in enumerate(events):
        delivery = Delivery(event, Address(topic="t", partition=0, offset=offset), 1)
        show.take(Told(delivery, answer.take(delivery)))
    said = capsys.readouterr()
    return said.out, said.err


def failed(reason: Reason) -> AgentResult:
    return making.result(status="failed", reason=reason)


def test_structured_answer_without_text_is_shown_as_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    called = making.result("", structured={"answer": "Città", "keywords": []})
    out, _ = shown(capsys, called)
    assert out == '{"answer": "Città", "keywords": []}\n'


def test_structured_answer_that_is_the_text_is_shown_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = '{"answer":"Rome"}'
    out, _ = shown(capsys, making.result(text, last_seq=0, structured={"answer": "Rome"}))
    assert out == f"{text}\n"


def test_answer_that_begins_anew_says_what_may_have_become_of_the_attempt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = making.token(attempt=1000, seq=0, text="Par")
    again = making.result("Paris", attempt=1001, last_seq=0)
    out, err = shown(capsys, first, again)
    assert out == "Paris\n"
    told = "void, since the attempt that wrote it failed, was stopped or was lost:\nPar\n"
    assert err.startswith(told)


@pytest.mark.parametrize(
    ("finish_reason", "told"),
    [
        ("stop", "completed in "),
        ("length", "completed (cut at its limit of tokens: raise output_tokens_max) in "),
        ("content_filter", "completed (cut by its provider's filter) in "),
    ],
)
def test_answer_that_was_cut_says_so(
    finish_reason: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = shown(capsys, making.result("Par", last_seq=0, finish_reason=finish_reason))
    assert err.startswith(told)


def test_reason_of_a_failure_is_told_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    message = f"no package\x1b[2J{' of this name' * 40}: run pip install it"
    _, err = shown(capsys, failed(Reason(code="model_unavailable", message=message)))
    assert "run pip install it (0 tokens in, 0 out, $0.000000)" in err
    assert "\x1b" not in err


def step(seq: int, kind: str, **told: object) -> AgentStep:
    return AgentStep.model_validate(
        {
            "user_id": "ada",
            "request_id": "r",
            "session_id": "s",
            "at_ms": 1,
            "attempt": 1000,
            "seq": seq,
            "kind": kind,
            **told,
        }
    )


CALL = (
    step(0, "model_start", name="scripted"),
    making.token(attempt=1000, seq=0, text="Let me see. It is 144."),
    step(1, "tool_start", name="calculator", arguments='{"expression": "12*12"}', text_bytes=11),
    step(2, "tool_end", name="calculator", result="144", duration_ms=3, text_bytes=11),
)


def test_steps_are_told_on_standard_error_in_their_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asks, text, *call = CALL
    ended = making.result("Let me see. It is 144.", attempt=1000, last_seq=0, steps=3)
    out, err = shown(capsys, asks, *call, text, ended)
    assert out == "Let me see. It is 144.\n"
    told = err.splitlines()
    assert told[:3] == ["asks scripted", '→ calculator(expression="12*12")', "← 144 in 3 ms"]
    assert told[3].startswith("completed in")


def test_chat_shows_calls_of_tools_and_not_those_of_models(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, err = shown(capsys, *CALL, model_calls=False)
    assert err == '→ calculator(expression="12*12")\n← 144 in 3 ms\n'


def test_steps_of_an_attempt_that_is_void_are_told_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = step(0, "restart").model_copy(update={"attempt": 2000})
    late = step(3, "model_start", name="scripted")
    _, err = shown(capsys, CALL[0], again, late)
    told = err.splitlines()
    assert told[0] == "asks scripted"
    # It wrote nothing, so no answer begins anew.
    assert told[1].startswith("another attempt begins (the one before failed")
    # A new owner cannot know whether there was one before.
    assert told[-1] == "begins, since any attempt before it was lost or stopped"


def test_text_that_is_held_back_is_written_when_it_breaks_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show, answer = TextShow(), Answer()
    token = making.token("Par", attempt=1)
    delivery = Delivery(token, Address(topic="t", partition=0, offset=0), 1)
    show.take(Told(delivery, answer.take(delivery)))
    assert capsys.readouterr().out == ""
    show.broke_off()
    assert capsys.readouterr().out == "Par\n"


def test_model_without_a_price_is_not_told_to_cost_nothing() -> None:
    result = making.result("Paris", usage=Usage(input_tokens=3, output_tokens=1))
    assert ending(result, unpriced=True).endswith("3 tokens in, 1 out, no price")
    assert ending(result).endswith("3 tokens in, 1 out, $0.000000")


class _Terminal(io.StringIO):
    """Standard output and standard error, as they stand in one terminal."""

    def isatty(self) -> bool:
        return True


def shown_at_once(*events: AgentToken | AgentStep | AgentResult) -> str:
    """Give what stands in a terminal after these records."""
    both = _Terminal()
    with redirect_stdout(both), redirect_stderr(both):
        show, answer = TextShow(), Answer(steps=True)
        for offset, event in enumerate(events):
            delivery = Delivery(event, Address(topic="t", partition=0, offset=offset), 1)
            show.take(Told(delivery, answer.take(delivery)))
    return both.getvalue()


ANSWERED = making.result("Let me see. It is 144.", attempt=1000, last_seq=0, steps=3)


def test_step_that_comes_late_does_not_break_the_line() -> None:
    lines = shown_at_once(*CALL, ANSWERED).splitlines()
    assert lines[:4] == [
        "asks scripted",
        "Let me see. It is 144.",
        '→ calculator(expression="12*12")',
        "← 144 in 3 ms",
    ]
    assert lines[4].startswith("completed in")


def test_step_in_its_place_parts_the_text() -> None:
    asks, text, *call = CALL
    assert shown_at_once(asks, *call, text, ANSWERED).splitlines()[1:5] == [
        "Let me see.",
        '→ calculator(expression="12*12")',
        "← 144 in 3 ms",
        " It is 144.",
    ]


def test_terminal_shows_the_letters_of_a_language_and_obeys_nothing() -> None:
    text = "10\u00a0000\u202f€ \u5168\u3000\u89d2\x1b[2J"
    shown = shown_at_once(making.result(text, last_seq=0, steps=0))
    assert shown.startswith("10\u00a0000\u202f€ \u5168\u3000\u89d2[2J\n")
