"""From errors to reasons on the wire."""

from __future__ import annotations

from millstream.schemas.base import Reason
from millstream.schemas.errors import Forbidden, RateLimited
from millstream.schemas.reasons import MESSAGE_CHARS_MAX, reason_of


def test_an_error_of_our_own_gives_its_code_and_words() -> None:
    assert reason_of(Forbidden("not for ada")) == Reason(code="forbidden", message="not for ada")
    assert reason_of(Forbidden()).message == "Forbidden"


def test_a_limit_says_when_to_come_back() -> None:
    assert reason_of(RateLimited("slow down", retry_after_s=3)).retry_after_s == 3


def test_any_other_error_gives_its_type_and_text() -> None:
    assert reason_of(KeyError("x")) == Reason(code="failed", message="KeyError: 'x'")
    assert reason_of(TimeoutError()).message == "TimeoutError"


def test_a_message_is_bounded_and_can_be_written_as_json() -> None:
    reason = reason_of(ValueError("\ud800" + "x" * 10_000))
    assert len(reason.message) == MESSAGE_CHARS_MAX
    assert reason.model_dump_json()
