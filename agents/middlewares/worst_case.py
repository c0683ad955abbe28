"""The most that a template's memory and middlewares read and write in calls of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from langchain.agents.middleware import TodoListMiddleware
from langchain.agents.middleware.todo import WRITE_TODOS_SYSTEM_PROMPT
from langchain.agents.middleware.tool_selection import DEFAULT_SYSTEM_PROMPT
from langchain_core.tools import BaseTool

from millstream.agents.middlewares.build import SELECTOR_TOKENS_MAX
from millstream.agents.middlewares.summary_memory import SUMMARY_PROMPT_TOKENS_MAX
from millstream.agents.sessions.memory import BYTES_PER_TOKEN, FRAME_TOKENS_MAX
from millstream.agents.templates.memory import Summary
from millstream.agents.templates.named_middlewares import TodoList, ToolSelector
from millstream.agents.templates.template import AgentTemplate

__all__ = ["CallsBeside", "calls_beside", "tools_beside", "words_beside"]

_SELECTOR_WORDS = 256
"""What the selector's instructions have beside those that can be set."""


@dataclass(frozen=True, slots=True)
class CallsBeside:
    """Model calls that are not the agent's own: how many, and their tokens together."""

    calls: int = 0
    input_tokens_max: int = 0
    output_tokens_max: int = 0


def calls_beside(template: AgentTemplate, text_bytes: int, tools_tokens: int) -> CallsBeside:
    """Give the most that a run's calls beside its own may use."""
    calls, read, wrote = 0, 0, 0
    memory = template.memory
    if isinstance(memory, Summary):
        calls += 1
        read += memory.read_tokens_max * BYTES_PER_TOKEN + SUMMARY_PROMPT_TOKENS_MAX
        wrote += memory.summary_tokens_max
    for one in template.middlewares:
        if isinstance(one, ToolSelector):
            prompt = one.params.system_prompt or DEFAULT_SYSTEM_PROMPT
            times = template.run_model_calls_max
            words = len(prompt.encode(errors="replace")) + _SELECTOR_WORDS
            # The tools' descriptions are in the schema of the answer.
            each = words + text_bytes + tools_tokens + 3 * FRAME_TOKENS_MAX
            calls, read, wrote = (
                calls + times,
                read + times * each,
                wrote + times * SELECTOR_TOKENS_MAX,
            )
    return CallsBeside(calls, read, wrote)


def tools_beside(template: AgentTemplate) -> Iterable[BaseTool]:
    """Give the tools that LangChain's own middlewares add to the template's."""
    for one in template.middlewares:
        if isinstance(one, TodoList):
            yield from TodoListMiddleware(**one.params.model_dump(exclude_none=True)).tools


def words_beside(template: AgentTemplate) -> int:
    """Give the bytes that middlewares add to the system prompt."""
    return sum(
        len((one.params.system_prompt or WRITE_TODOS_SYSTEM_PROMPT).encode(errors="replace"))
        for one in template.middlewares
        if isinstance(one, TodoList)
    )
