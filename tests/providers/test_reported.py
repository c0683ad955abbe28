"""Reported faults of tools, of models that are no provider's, and of text, through a real lane."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.types import interrupt

from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from tests.harness.quick_time import run_quickly
from tests.providers.case import Case, check, in_memory, load_cases

pytestmark = pytest.mark.promise("P1")

OWN = AgentTemplate(
    name="own_tools", kind="react", tools=("ask_expert", "exit_sync", "exit_async", "ask_human")
)


def own_tools(url: str) -> ToolRegistry:
    @tool
    async def ask_expert(x: str) -> str:
        """Ask an expert."""
        expert = resolve_model("openai:expert", base_url=url, api_key="key")
        return (await expert.ainvoke(f"[r14expert] {x}")).text

    @tool
    def exit_sync(x: str = "") -> str:  # noqa: ARG001  models give one
        """Exit."""
        sys.exit(1)

    @tool
    async def exit_async(x: str = "") -> str:  # noqa: ARG001  models give one
        """Exit as well."""
        sys.exit(1)

    @tool
    def ask_human(x: str = "") -> str:  # noqa: ARG001  models give one
        """Ask a person."""
        return str(interrupt("ok?"))

    return ToolRegistry([*built_in_tools(), ask_expert, exit_sync, exit_async, ask_human])


class Odd(BaseChatModel):
    """Cancels itself for the input `bad`."""

    @property
    def _llm_type(self) -> str:
        return "odd"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("fine"))])

    async def ainvoke(self, given: Any, *args: Any, **kwargs: Any) -> AIMessage:
        messages: list[BaseMessage] = given
        if messages[-1].text == "bad":
            raise asyncio.CancelledError
        return await super().ainvoke(given, *args, **kwargs)


def _each() -> list[pytest.ParameterSet]:
    cases = load_cases(Path(__file__).parent / "reported")
    return [pytest.param(case, id=case.file) for case in cases]


async def _play(case: Case) -> None:
    templates = (*BUILT_IN_TEMPLATES, OWN)
    async with in_memory(case, templates, own_tools, {"odd:ainvoke": Odd()}) as bench:
        await check(case, case.templates[0], bench)


@pytest.mark.parametrize("case", _each())
def test_what_was_reported_comes_out_right(case: Case) -> None:
    run_quickly(_play(case))
