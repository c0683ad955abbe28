"""A journal of a run that was moved: which of its answers count whatever is asked."""

from __future__ import annotations

import pytest
from langchain.agents.middleware import ModelResponse
from langchain_core.messages import AIMessage

from millstream.agents.loop.journal.moves import recorded_calls, schema_digest
from millstream.agents.sessions.recorded.answers import recorded_model
from millstream.schemas.journal.errors import JournalMismatch, JournalUnreadable
from millstream.schemas.journal.steps import JournalStep, RunBegan

ONE, OTHER = "0" * 32, "1" * 32


def answered(number: int, follows: str) -> JournalStep:
    content = recorded_model(ModelResponse([AIMessage("x", id=f"a{number}")]), {}).content
    return _step(number, "answered").model_copy(
        update={"follows": follows, "asked": ONE, "content": content}
    )


def moved(number: int, *tools: str) -> JournalStep:
    began = RunBegan(template="own", template_version="2", tools=tools)
    return _step(number, "moved").model_copy(update={"began": began})


def _step(number: int, kind: str) -> JournalStep:
    return JournalStep(
        user_id="ada", request_id="r", session_id="s", attempt=1, step=number, kind=kind
    )


def test_an_answer_before_a_move_counts_whatever_is_asked_and_one_behind_it_is_compared() -> None:
    calls = recorded_calls([answered(0, ""), moved(1, "pay"), answered(2, "a0")])
    assert calls.answered_model("", OTHER) is not None
    with pytest.raises(JournalMismatch):
        calls.answered_model("a0", OTHER)
    assert calls.tools_begun == {"pay"}


def test_an_answer_between_two_moves_counts_whatever_is_asked() -> None:
    steps = [answered(0, ""), moved(1), answered(2, "a0"), moved(3, "look")]
    calls = recorded_calls(steps)
    assert calls.answered_model("", OTHER) is not None
    assert calls.answered_model("a0", OTHER) is not None
    assert calls.tools_begun == {"look"}


def test_a_journal_without_a_move_is_compared() -> None:
    calls = recorded_calls([answered(0, "")])
    with pytest.raises(JournalMismatch):
        calls.answered_model("", OTHER)


def test_a_kind_that_is_not_known_ends_the_run_also_in_a_journal_with_a_move() -> None:
    with pytest.raises(JournalUnreadable):
        recorded_calls([moved(0), _step(1, "of_a_newer_version")])


def test_a_schema_has_one_digest_in_whatever_order_its_keys_stand() -> None:
    assert schema_digest({"a": 1, "b": 2}) == schema_digest({"b": 2, "a": 1})
    assert schema_digest({"a": 1}) != schema_digest({"a": 2})
    assert schema_digest(None) == ""
