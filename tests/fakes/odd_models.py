"""A chat model and tools that are as bad as real ones: they exit, cancel themselves, break off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field
from typing_extensions import override

Said = AIMessage | Sequence[AIMessageChunk] | BaseException
"""What a model does in one call: it answers, streams these chunks, or raises."""


class OddModel(BaseChatModel):
    """Says what it is told to, call by call; the last one stands for all further calls.

    `seen` are the messages that each call was made with, `bound` the tools as they went out.
    """

    says: list[Any] = Field(default_factory=list)
    seen: list[list[BaseMessage]] = Field(default_factory=list)
    bound: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "odd"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, AIMessage]:
        self.bound[:] = tools
        return self

    def _next(self, messages: list[BaseMessage]) -> Any:
        said = self.says[min(len(self.seen), len(self.says) - 1)]
        self.seen.append(list(messages))
        if isinstance(said, BaseException):
            raise said
        return said() if callable(said) else said

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        said = self._next(messages)
        return ChatResult(generations=[ChatGeneration(message=said.model_copy())])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)

    def results(self, call: int) -> list[ToolMessage]:
        """Give the tools' results that a call was made with."""
        return [message for message in self.seen[call] if isinstance(message, ToolMessage)]


class StreamingOddModel(OddModel):
    """The same, in chunks: an answer is one chunk, a list of chunks goes out as it is."""

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        said = self._next(messages)
        if isinstance(said, AIMessage):
            chunks = [AIMessageChunk(**said.model_dump(exclude={"type", "id"}))]
        else:
            chunks = list(said)
        for message in chunks:
            if isinstance(message, BaseException):
                raise message
            chunk = ChatGenerationChunk(message=message.model_copy())
            if run_manager is not None:
                await run_manager.on_llm_new_token(message.text, chunk=chunk)
            yield chunk


def calling(*calls: tuple[str, dict[str, Any], str | None], text: str = "") -> AIMessage:
    """Give an answer that calls tools: each a name, arguments and an id."""
    return AIMessage(
        text, tool_calls=[{"name": name, "args": args, "id": one} for name, args, one in calls]
    )


def raising(error: BaseException) -> Callable[..., str]:
    """Give a function that raises this."""

    def tool(x: str = "") -> str:  # noqa: ARG001
        raise error

    return tool


def raising_later(error: BaseException) -> Callable[..., Any]:
    """Give a coroutine function that raises this, from a task that it makes itself."""

    async def tool(x: str = "") -> str:  # noqa: ARG001
        async def inner() -> str:
            raise error

        return await asyncio.create_task(inner())

    return tool


class Chooser(OddModel):
    """A model that tools are bound to as LangChain's own are: by a binding."""

    @override
    def bind_tools(self, tools: Any, **_: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[str(tool) for tool in tools])
