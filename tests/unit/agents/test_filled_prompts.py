"""A system prompt with variables: each run has its own, and all share one agent."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, SystemMessage
from langchain_core.tools import StructuredTool

from millstream.agents.factory import AgentFactory
from millstream.agents.loop.agent import SingleCallAgent
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry
from millstream.schemas.errors import PromptVariableRefused
from tests.fakes.odd_models import OddModel
from tests.harness.agent_runs import Runs, resolved

PROMPT = {
    "system_prompt": "Help {customer}. {{customer}}",
    "prompt_variables": {"customer": {"chars_max": 40}},
}
TODO = {"name": "todo_list", "params": {"system_prompt": "Keep a list."}}


def runs_of(**fields: Any) -> tuple[Runs, OddModel]:
    model = OddModel(says=[AIMessage("done")])
    tools = ToolRegistry([StructuredTool.from_function(lambda x: x, name="t", description="T")])
    template = AgentTemplate.model_validate({"name": "own", **PROMPT, **fields})
    factory = AgentFactory(
        default_model="m", templates=(template,), tools=tools, resolve=lambda *_, **__: model
    )
    return Runs(factory), model


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ({}, ""),
        ({"kind": "react", "tools": ("t",)}, ""),
        ({"middlewares": ({"name": "pii", "params": {"pii_type": "ip"}},)}, ""),
        ({"kind": "react", "tools": ("t",), "middlewares": (TODO,)}, "Keep a list."),
    ],
)
async def test_each_run_has_the_prompt_of_its_own_request(
    fields: dict[str, Any], added: str
) -> None:
    runs, model = runs_of(**fields)
    for name in ("Ada", "{customer}"):
        outcome = await runs.run("x", template="own", metadata={"customer": name}, request_id=name)
        assert outcome.result.output == "done"
    systems = [one for seen in model.seen for one in seen if isinstance(one, SystemMessage)]
    assert [one.text.split("\n\n")[0] for one in systems] == [
        "Help Ada. {customer}",
        "Help {customer}. {customer}",
    ]
    assert all(added in one.text for one in systems)


def test_runs_with_other_prompts_share_one_agent_that_makes_a_single_call() -> None:
    runs, _ = runs_of()
    one, other = (
        runs.factory.create(
            runs.factory.plan(resolved("x", template="own", metadata={"customer": name}))
        )
        for name in ("Ada", "Bob")
    )
    assert one is other
    assert isinstance(one, SingleCallAgent)


def test_a_prompt_counts_at_its_real_length() -> None:
    factory = runs_of()[0].factory
    short, long = (
        factory.plan(resolved("x", template="own", metadata={"customer": name}))
        for name in ("a", "é" * 10)
    )
    assert long.input_tokens_max - short.input_tokens_max == 19


def test_a_request_without_its_variable_has_no_plan() -> None:
    with pytest.raises(PromptVariableRefused, match=r"metadata\['customer'\] is missing"):
        runs_of()[0].factory.plan(resolved("x", template="own"))
