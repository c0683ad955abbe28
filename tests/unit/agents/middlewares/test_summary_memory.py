"""The memory strategy `summary`: within the run's seam, in steps, and softly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from millstream.agents.factory import AgentFactory
from millstream.agents.loop.calls import Calls
from millstream.agents.sessions.checkpointer import RunCheckpointer
from millstream.agents.templates.memory import Summary
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import ModelFailed, Suspended
from tests.fakes.odd_models import OddModel
from tests.harness.agent_runs import Runs, resolved

ANSWER = AIMessage("a" * 90)
SHORT = AIMessage("they greeted")
MEMORY = Summary(tokens_max=300, summary_tokens_max=60, model="writer")


def runs_of(writer: list[Any], main: list[Any] | None = None) -> tuple[Runs, OddModel, OddModel]:
    models = {"main": OddModel(says=main or [ANSWER]), "writer": OddModel(says=writer)}
    template = AgentTemplate(name="own", memory=MEMORY)
    factory = AgentFactory(
        default_model="main", templates=(template,), resolve=lambda name, **_: models[name]
    )
    return Runs(factory), models["main"], models["writer"]


async def talk(runs: Runs, turns: int) -> None:
    for number in range(turns):
        outcome = await runs.run(f"q{number} " + "x" * 40, template="own", request_id=f"r{number}")
        assert outcome.result.status == "completed"
        runs.assert_text_is_the_tokens(outcome)


def kept(runs: Runs) -> list[str]:
    messages = RunCheckpointer(runs.saved, runs.factory.list()[0]).messages
    return [message.text for message in messages]


async def test_older_turns_give_way_to_a_summary_of_them() -> None:
    runs, main, writer = runs_of([SHORT])
    await talk(runs, 6)
    assert len(writer.seen) == 1
    assert "q0 xxx" in writer.seen[0][0].text
    shown = [message.text for message in main.seen[-1]]
    assert shown[:2] == ["Summarise our conversation so far.", "they greeted"]
    assert shown[-1].startswith("q5")


async def test_a_summary_is_told_of_what_was_shown() -> None:
    notes = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    runs, main, writer = runs_of([SHORT])
    main.profile = {"image_inputs": True}
    await runs.run("look " + "x" * 40, template="own", content=[notes], request_id="first")
    await talk(runs, 5)
    assert "[image/png, 8 B]" in writer.seen[0][0].text


async def test_the_next_summary_is_made_of_the_last_one_too() -> None:
    runs, main, writer = runs_of([SHORT, AIMessage("they went on")])
    await talk(runs, 9)
    assert len(writer.seen) == 2
    assert "they greeted" in writer.seen[1][0].text
    assert "they went on" in [message.text for message in main.seen[-1]]
    assert "they greeted" not in [message.text for message in main.seen[-1]]


async def test_between_summaries_a_prompt_only_grows() -> None:
    runs, main, writer = runs_of([SHORT])
    await talk(runs, 30)
    prompts = [[message.text for message in each] for each in main.seen]
    grew = [later[: len(one)] == one for one, later in pairwise(prompts)]
    assert grew.count(False) == len(writer.seen)
    assert len(writer.seen) <= 12


# langchain-ai/langchain#38867: the words of an error took the place of the conversation
@pytest.mark.parametrize("said", [ModelFailed("boom"), ValueError("boom"), AIMessage(" ")])
async def test_without_a_summary_the_older_turns_are_left_out(said: Any) -> None:
    runs, main, writer = runs_of([said])
    await talk(runs, 6)
    assert writer.seen
    shown = [message.text for message in main.seen[-1]]
    assert shown[0].startswith("q")
    assert not any("boom" in text for text in (*shown, *kept(runs)))


async def test_a_summary_is_asked_before_and_charged_under_its_own_model() -> None:
    runs, main, writer = runs_of([SHORT])
    await talk(runs, 5)
    writer.seen.clear()
    asked: list[int] = []

    async def before_call() -> None:
        asked.append(len(main.seen) + len(writer.seen))

    outcome = await runs.run("q", template="own", before_call=before_call)
    assert len(writer.seen) + 1 == len(asked) == len(outcome.calls)


async def test_a_pause_stops_a_run_before_its_summary() -> None:
    runs, main, writer = runs_of([SHORT])
    await talk(runs, 4)

    async def pause() -> None:
        raise Suspended

    outcome = await runs.run("q4", template="own", before_call=pause)
    assert outcome.suspended
    assert (len(main.seen), writer.seen) == (4, [])
    await runs.run("q4", template="own")
    assert (len(main.seen), len(writer.seen)) == (5, 1)


@pytest.mark.promise("P2")
async def test_a_retry_asks_for_no_second_summary() -> None:
    runs, main, writer = runs_of([SHORT], [*[ANSWER] * 4, ModelFailed("no"), ANSWER])
    await talk(runs, 4)
    calls = Calls()
    saved = runs.saved
    first = await runs.run("q4", template="own", calls=calls)
    assert (first.retryable, len(writer.seen)) == (True, 1)
    assert runs.saved is saved
    second = await runs.run("q4", template="own", calls=calls, attempt=1001, announce=True)
    assert second.result.status == "completed"
    assert (len(main.seen), len(writer.seen)) == (6, 1)


def test_a_summary_is_reserved() -> None:
    runs, _, _ = runs_of([SHORT])
    plan = runs.factory.plan(resolved("x", template="own"))
    assert (plan.output_tokens_max, plan.model_calls_max) == (256 + 60, 2)
    assert plan.models_beside == ("writer",)


def test_a_summary_without_room_is_told() -> None:
    with pytest.raises(ValueError, match="more than the 150 tokens"):
        Summary(tokens_max=300, summary_tokens_max=200)
