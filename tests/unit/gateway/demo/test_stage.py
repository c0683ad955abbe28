"""Several answers in one terminal come one after the other, whole."""

from __future__ import annotations

from millstream.gateway.demo.stage import Stage
from millstream.schemas.base import Address, Event, Reason
from millstream.schemas.events import AgentResult, AgentToken, ResultStatus
from millstream.streams.bus.api import Delivery
from tests import making


def token(request_id: str, text: str, seq: int = 0, attempt: int = 1000) -> AgentToken:
    return making.token(request_id=request_id, attempt=attempt, seq=seq, text=text)


def result(
    request_id: str, output: str | None, status: ResultStatus = "completed", attempt: int = 1000
) -> AgentResult:
    return making.result(
        request_id=request_id,
        status=status,
        output=output,
        reason=None if status == "completed" else Reason(code="forbidden", message="no"),
        attempt=attempt,
        model="local",
    )


def shown(*events: Event) -> tuple[str, Stage]:
    pieces: list[str] = []
    stage = Stage({"a": "asks a", "b": "asks b"}, pieces.append)
    for event in events:
        stage.take(Delivery(event, Address(topic="t", partition=0, offset=0), 1))
    return "".join(pieces), stage


def test_an_answer_is_shown_token_by_token_before_it_is_finished() -> None:
    text, stage = shown(token("a", "one"), token("a", " two", 1))
    assert text == "\n  asks a\n    one two"
    assert stage.waiting == ("a", "b")
    assert stage.tokens_seen


def test_a_second_answer_waits_until_the_first_is_finished() -> None:
    text, stage = shown(token("a", "one"), token("b", "1"), result("b", "1"), token("a", " two", 1))
    assert "asks b" not in text
    text, stage = shown(
        token("a", "one"), token("b", "1"), result("b", "1"), result("a", "one two")
    )
    assert text.index("one two") < text.index("asks b") < text.index("\n    1\n")
    assert stage.waiting == ()


def test_an_attempt_that_was_lost_is_told_and_the_answer_begins_anew() -> None:
    text, _ = shown(token("a", "old"), token("a", "new", 0, attempt=2000))
    assert text == (
        "\n  asks a\n    old\n    (an attempt failed or was lost, the answer begins anew)\n    new"
    )


def test_an_attempt_that_was_lost_is_told_as_soon_as_the_next_one_is_announced() -> None:
    announced = token("a", "", 0, attempt=2000)
    told = "\n  asks a\n    old\n    (an attempt failed or was lost, the answer begins anew)\n    "
    assert shown(token("a", "old"), announced)[0] == told
    text, _ = shown(token("a", "old"), announced, token("a", "new", 1, attempt=2000))
    assert text == f"{told}new"


def test_an_attempt_of_which_nothing_was_shown_makes_none_begin_anew() -> None:
    first, second = token("a", "", 0), token("a", "", 0, attempt=2000)
    text, _ = shown(first, second, token("a", "new", 1, attempt=2000))
    assert text == "\n  asks a\n    new"


def test_a_rejection_is_kept_for_afterwards() -> None:
    text, stage = shown(result("a", None, "rejected"))
    assert text == ""
    assert set(stage.rejected) == {"a"}
    assert not stage.tokens_seen


def test_what_nobody_here_asked_is_left_out() -> None:
    assert shown(token("c", "one"), result("c", "one"))[0] == ""


def test_a_failure_is_told_with_its_reason() -> None:
    text, _ = shown(result("a", None, "failed"))
    assert "failed, forbidden: no" in text
