"""The scripted model of the agent of many steps (`step_agent.py`), as LangChain's class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool

from benchmarks.programs.step_agent import Asked, Watch, arguments, asked, part, words

__all__ = ["StepModel", "step_tool"]

_USED: Any = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}


class StepModel(BaseChatModel):
    """Calls the tool as often as it is asked to; `folder` gets the calls of a held run."""

    folder: Path

    @property
    def _llm_type(self) -> str:
        return "steps"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Take any tools."""
        del tools
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        wanted, made = _asked(messages)
        if wanted.held >= 0:
            Watch(self.folder).called("model", made)
        said = AIMessage("done", usage_metadata=_USED)
        if made < wanted.steps:
            name = "put" if wanted.put else "work"
            args = arguments(wanted, made)
            calls = [{"name": name, "args": args, "id": f"call-{made}", "type": "tool_call"}]
            said = AIMessage("", tool_calls=calls, usage_metadata=_USED)
        return ChatResult(generations=[ChatGeneration(message=said)])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


def _asked(messages: Sequence[BaseMessage]) -> tuple[Asked, int]:
    made = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return asked(message.text), made
        made += isinstance(message, ToolMessage)
    return Asked(), made


def step_tool(folder: Path, name: str) -> StructuredTool:
    """Give the tool; `folder` gets its held calls."""
    text, watch = words(), Watch(folder)

    async def do(step: int, size: int, held: int) -> str:
        """Do a step."""
        await watch.tool_called(step, held)
        return part(text, step, size)

    return StructuredTool.from_function(coroutine=do, name=name)
