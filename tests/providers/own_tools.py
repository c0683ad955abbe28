"""The tools and models that reported cases name: some exit, some ask a model or a person."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.types import interrupt

from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools

__all__ = ["OWN", "Odd", "own_tools"]

OWN = AgentTemplate(
    name="own_tools", kind="react", tools=("ask_expert", "exit_sync", "exit_async", "ask_human")
)


def own_tools(url: str) -> ToolRegistry:
    """Make the tools, given the address of the case's server."""

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
