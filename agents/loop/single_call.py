"""One call of a model, as LangChain's `ainvoke` makes it with the run's callbacks and no others.

What it makes of a call (a manager of callbacks, a task, a message for each token and their sum)
takes more CPU than the call. So where a model streams and nobody else listens, its pieces are
taken here, told to the same handler, and made one message by the same function of LangChain's
([0015](docs/decisions/0015-one-call-needs-no-loop.md)).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol, cast
from uuid import UUID

from langchain_core.globals import get_debug, get_llm_cache, get_verbose
from langchain_core.language_models.chat_models import BaseChatModel, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from millstream.agents.ids import new_uuid
from millstream.agents.loop.callbacks import AgentCallbackHandler
from millstream.agents.loop.containment import is_cancelled_from_outside

__all__ = ["StreamsText", "call_model"]

_ID: Final = "lc_run--{}"
"""The id that LangChain gives to a message without one, of the run's."""

_TOLD_AGAIN: Final = frozenset({"model_provider", "output_version"})
"""What chunks repeat in their metadata; of anything else, LangChain has its own sum."""


class StreamsText(Protocol):
    """A chat model that gives text as text, where a message for each token would hold no more."""

    def pieces(
        self, messages: Sequence[BaseMessage]
    ) -> AsyncGenerator[str | ChatGenerationChunk, None]:
        """Give the pieces of an answer, as `_astream` does."""
        ...

    def chunk_of_text(self, text: str) -> ChatGenerationChunk:
        """Give the chunk that `_astream` gives for a text."""
        ...


async def call_model(
    model: BaseChatModel, messages: Sequence[BaseMessage], handler: AgentCallbackHandler
) -> AIMessage:
    """Call a model with a conversation; gives its answer. Raises whatever model and handler do."""
    if not _is_plain(model, messages):
        answer: AIMessage = await model.ainvoke(list(messages), {"callbacks": [handler]})
        return answer
    run_id = new_uuid()
    await handler.on_chat_model_start(
        {},
        [list(messages)],
        run_id=run_id,
        metadata=model.metadata,
        invocation_params=model._get_invocation_params(),  # noqa: SLF001  as `ainvoke` does
    )
    try:
        said = await _streamed(model, messages, handler, run_id)
    except BaseException as error:
        if not is_cancelled_from_outside(asyncio.current_task(), error):
            await handler.on_llm_error(error, run_id=run_id)
        raise
    ended = LLMResult(generations=[[ChatGeneration(message=said)]])
    await handler.on_llm_end(ended, run_id=run_id)
    return said


def _is_plain(model: BaseChatModel, messages: Sequence[BaseMessage]) -> bool:
    """Whether `ainvoke` would do nothing but stream, and tell the run's handler of it."""
    kind, base = type(model), BaseChatModel
    streams = kind._astream is not base._astream and model.disable_streaming is not True  # noqa: SLF001
    others = model.callbacks or model.cache or model.rate_limiter or model.verbose
    known = get_llm_cache() is None and not get_debug() and not get_verbose()
    # Blocks of content are put into the newest form, of messages or of answers.
    as_text = model.output_version is None and all(isinstance(one.content, str) for one in messages)
    return streams and not others and known and as_text


async def _streamed(
    model: BaseChatModel,
    messages: Sequence[BaseMessage],
    handler: AgentCallbackHandler,
    run_id: UUID,
) -> AIMessage:
    answer = _Answer(model, _ID.format(run_id))
    as_text = getattr(model, "pieces", None)
    if as_text is not None:
        stream = as_text(messages)
    else:
        chunks: AsyncIterator[Any] = model._astream(list(messages))  # noqa: SLF001  as above
        stream = cast("AsyncGenerator[str | ChatGenerationChunk, None]", chunks)
    async with aclosing(stream):
        async for piece in stream:
            if isinstance(piece, str):
                answer.texts.append(piece)
                await handler.on_answer_text(run_id, piece)
            else:
                answer.take(piece)
                await handler.on_llm_new_token(
                    cast("str", piece.message.content), chunk=piece, run_id=run_id
                )
    return answer.whole()


class _Answer:
    """The pieces of an answer, of which those that are text and nothing else are one in the end."""

    __slots__ = ("_chunks", "_id", "_model", "texts")

    def __init__(self, model: BaseChatModel, message_id: str) -> None:
        self.texts: list[str] = []
        self._model = model
        self._id = message_id
        self._chunks: list[ChatGenerationChunk] = []

    def take(self, chunk: ChatGenerationChunk) -> None:
        """Take in a chunk, with what LangChain puts into its message."""
        message = chunk.message
        message.response_metadata = {**(chunk.generation_info or {}), **message.response_metadata}
        if message.id is None:
            message.id = self._id
        self._join()
        self._chunks.append(chunk)

    def whole(self) -> AIMessage:
        """Give all of it. Raises `ValueError` where nothing came."""
        self._join()
        if (said := self._as_text()) is not None:
            return said
        if self._chunks and getattr(self._chunks[-1].message, "chunk_position", None) is None:
            last = AIMessageChunk(content="", chunk_position="last", id=self._id)
            self._chunks.append(ChatGenerationChunk(message=last))
        generation = generate_from_stream(iter(self._chunks)).generations[0]
        message = generation.message
        message.response_metadata = {
            **(generation.generation_info or {}),
            **message.response_metadata,
        }
        assert isinstance(message, AIMessage)  # noqa: S101  what else does a model say
        return message

    def _as_text(self) -> AIMessage | None:
        """Give an answer that is but text, its end and its usage, each of these told once."""
        texts: list[str] = []
        told: dict[str, Any] = {}
        usage = None
        for chunk in self._chunks:
            message = chunk.message
            if not isinstance(message, AIMessageChunk) or not isinstance(message.content, str):
                return None
            if message.additional_kwargs or message.tool_call_chunks or message.id != self._id:
                return None
            if message.usage_metadata is not None:
                if usage is not None:
                    return None
                usage = message.usage_metadata
            for name, value in message.response_metadata.items():
                if name in told and (name not in _TOLD_AGAIN or told[name] != value):
                    return None
                told[name] = value
            texts.append(message.content)
        if not texts:
            return None
        return AIMessage(
            content="".join(texts), id=self._id, response_metadata=told, usage_metadata=usage
        )

    def _join(self) -> None:
        if self.texts:
            chunk = cast("StreamsText", self._model).chunk_of_text("".join(self.texts))
            chunk.message.id = self._id
            self._chunks.append(chunk)
            self.texts = []
