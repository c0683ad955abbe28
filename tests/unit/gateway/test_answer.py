"""An answer put together from tokens and a result, in whatever order they are read."""

from __future__ import annotations

from gateway.answer import Answer, Piece
from schemas.base import Address
from schemas.events import AgentResult, AgentToken


def token(text: str, seq: int, attempt: int = 1000) -> AgentToken:
    return AgentToken(
        user_id="ada", request_id="r", session_id="s", attempt=attempt, seq=seq, text=text
    )


def result(output: str | None, attempt: int = 1000) -> AgentResult:
    return AgentResult(
        user_id="ada",
        request_id="r",
        session_id="s",
        status="failed" if output is None else "completed",
        output=output,
        attempt=attempt,
        source=Address(topic="t", partition=0, offset=0),
        accepted_at_ms=1,
    )


def test_tokens_are_shown_as_they_come_and_none_twice() -> None:
    answer = Answer()
    assert answer.take_token(token("a", 0)) == Piece("a")
    assert answer.take_token(token("a", 0)) is None
    assert answer.take_token(token("b", 1)) == Piece("b")
    assert answer.shown == "ab"


def test_a_token_that_comes_too_early_waits_for_those_before_it() -> None:
    answer = Answer()
    assert answer.take_token(token("b", 1)) is None
    assert answer.take_token(token("a", 0)) == Piece("ab")


def test_a_higher_attempt_starts_the_text_anew_and_a_lower_one_is_left_out() -> None:
    answer = Answer()
    answer.take_token(token("old", 0))
    assert answer.take_token(token("new", 0, attempt=2000)) == Piece("new", restarted=True)
    assert answer.take_token(token("er", 1)) is None
    assert answer.shown == "new"


def test_the_result_gives_what_the_tokens_have_not_brought_yet() -> None:
    answer = Answer()
    answer.take_token(token("a", 0))
    assert answer.take_result(result("abc")) == Piece("bc")
    assert answer.take_token(token("b", 1)) is None


def test_a_result_whose_tokens_were_all_shown_adds_nothing() -> None:
    answer = Answer()
    answer.take_token(token("abc", 0))
    assert answer.take_result(result("abc")) is None


def test_a_result_of_another_attempt_replaces_what_was_shown() -> None:
    answer = Answer()
    answer.take_token(token("abc", 0))
    assert answer.take_result(result("abd", attempt=2000)) == Piece("abd", restarted=True)


def test_a_result_without_a_text_shows_nothing() -> None:
    answer = Answer()
    assert answer.take_result(result(None)) is None
    assert answer.result is not None
