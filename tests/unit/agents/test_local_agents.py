"""The built-in templates with the local model."""

from __future__ import annotations

import pytest

from millstream.agents.factory import AgentFactory
from tests.harness.agent_runs import Runs

pytestmark = pytest.mark.model


@pytest.fixture
def runs() -> Runs:
    return Runs(AgentFactory())


async def test_the_local_model_chats_token_by_token(runs: Runs) -> None:
    outcome = await runs.run("Name one colour of the sky.")
    assert outcome.result.status == "completed", outcome.result.reason
    assert outcome.result.model == "local"
    assert outcome.result.usage.input_tokens > 10
    assert len(runs.tokens) > 1
    runs.assert_text_is_the_tokens(outcome)


async def test_the_local_model_is_held_to_a_schema(runs: Runs) -> None:
    outcome = await runs.run("What is a river?", template="structured_agent")
    assert outcome.result.status == "completed", outcome.result.reason
    assert outcome.result.structured is not None
    assert set(outcome.result.structured) == {"answer", "keywords"}
    runs.assert_text_is_the_tokens(outcome)


async def test_the_local_model_says_that_it_cannot_call_tools(runs: Runs) -> None:
    outcome = await runs.run("What time is it?", template="react_agent")
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "model_unavailable"


async def test_a_long_session_stays_within_the_models_context(runs: Runs) -> None:
    for index in range(12):
        await runs.run("word " * 100 + str(index), model="scripted")
    outcome = await runs.run("Say hello.")
    assert 300 < outcome.result.usage.input_tokens < 1500
    assert outcome.result.status == "completed", outcome.result.reason
