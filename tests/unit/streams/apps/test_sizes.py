"""A template that names no sizes has those of its model, on a request's whole way."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.templates.template import AgentTemplate
from millstream.middleware.policy import Policy
from millstream.streams.apps.app import App
from millstream.streams.apps.memory import InMemoryApp

PRICED = Policy.from_yaml(
    """
    roles: {any: {templates: ["*"], models: ["*"]}}
    defaults: {roles: [any]}
    prices:
      big: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}
      small: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}
    """,
    "policy.yaml",
)
TURN = f"say: {'word ' * 600}"
"""Of 3 kB: as much as a thousand tokens of memory hold, with its answer too much."""


class Reads(ScriptedChatModel):
    """Plays its script, and keeps what it was made for and shown."""

    max_tokens: int
    shown: list[int]

    async def _astream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.shown.append(sum(len(one.text) for one in messages))
        async for chunk in super()._astream(messages, *args, **kwargs):
            assert isinstance(chunk, ChatGenerationChunk)
            yield chunk


def app(made: list[Reads], **fields: Any) -> App:
    def make(context: int) -> Any:
        def one(**params: Any) -> Reads:
            made.append(Reads(**params, shown=[], profile={"max_input_tokens": context}))
            return made[-1]

        return one

    models = {"big": make(128_000), "small": make(3000)}
    template = AgentTemplate.model_validate({"name": "own", "models": ["big"], **fields})
    return App("own", templates=[template], models=models)


@pytest.mark.parametrize(
    ("fields", "request_fields", "limit", "shown"),
    [
        ({}, {}, 4096, 3),
        ({}, {"model": "small"}, 375, 1),
        ({"models": ["big", "small"]}, {}, 375, 1),
        ({"output_tokens_max": 300}, {}, 300, 3),
        ({"memory": {"strategy": "last_turns", "tokens_max": 1000}}, {}, 4096, 1),
    ],
)
async def test_answers_and_memory_follow_the_model_that_answers(
    fields: dict[str, Any], request_fields: dict[str, Any], limit: int, shown: int
) -> None:
    made: list[Reads] = []
    async with InMemoryApp(app(made, **fields), policy=PRICED) as running:
        for _ in range(2):
            run = await running.run("own", TURN, session_id="s", **request_fields)
            assert run.status == "completed"
    (model,) = (one for one in made if one.shown)
    assert model.max_tokens == limit
    first, second = model.shown
    assert round(second / first) == shown


async def test_a_first_request_reserves_no_memory_and_a_later_one_does() -> None:
    async with InMemoryApp(app([]), policy=PRICED) as running:
        alone = await running.run("own", "say: x")
        named = await running.run("own", "say: x", session_id="s")
    first, later = (run.decision.reserved_micros for run in (alone, named) if run.decision)
    assert (first < 5_000, later > 90_000) == (True, True)
