"""What a run tells of itself while it goes on: tokens as records, and events for those who listen.

Of the ways to get tokens out of an agent, `ainvoke` with a callback handler that asks for streaming
takes less CPU than `astream` with `stream_mode="messages"`, though more than the model by itself; a
plain handler under `ainvoke` gets no tokens at all. So the handler asks: it has the two
`tap_output_*` methods by which langchain-core knows one that does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from time import monotonic
from typing import Any, Final, TypeVar
from uuid import UUID

from langchain.agents.middleware.internal_call_transformer import INTERNAL_CALL_METADATA_KEY
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, GenerationChunk, LLMResult
from typing_extensions import override

from millstream.agents.loop.answer_ends import Ending
from millstream.agents.loop.journal.reserving import Reserving
from millstream.agents.loop.telling.events import CallbackEvent, EventKind, OnCallbackEvent
from millstream.agents.loop.telling.teller import Teller
from millstream.agents.loop.token_writer import TokenWriter
from millstream.agents.models.call_meter import CallMeter
from millstream.agents.models.ends import finish_reason_of
from millstream.agents.models.errors import as_foreseen
from millstream.agents.models.media.labels import is_media, labelled_text
from millstream.agents.models.usage import DOUBT, ModelCall
from millstream.schemas.ports import BeforeCall
from millstream.schemas.reasons import reason_of, words_of

__all__ = ["AgentCallbackHandler", "CallbackEvent", "OnCallbackEvent"]

T = TypeVar("T")

_BETWEEN_MESSAGES: Final = "\n\n"


class AgentCallbackHandler(AsyncCallbackHandler):
    """The callbacks of one attempt: writes the agent's tokens, counts usage, tells of its calls.

    Tokens are those of the agent's own model calls, in the order written; the text of a later call
    is set off by an empty line. Models that a tool calls for itself are not the agent's voice: they
    count in `meter`, but not in the text. A model that cannot stream is one token per call.

    `before_call` is awaited before each call of a model, also of one that an asynchronous tool
    calls, and `reserving` before each of the agent's and its middlewares'. What they raise, the
    call raises and the run fails by; so it is with a token that cannot
    be written, since the result's text would not be the tokens' text (`raise_error`). Nothing else
    here fails a run.
    """

    raise_error = True
    # In order and one at a time, in the model's own task: so a slow broker slows the model down.
    run_inline = True
    ignore_chain = True
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    def __init__(
        self,
        writer: TokenWriter,
        *,
        teller: Teller,
        before_call: BeforeCall | None = None,
        ending: Ending | None = None,
        meter: CallMeter | None = None,
    ) -> None:
        self.model_error: BaseException | None = None
        self.ending = Ending() if ending is None else ending
        self.meter = CallMeter(self.ending.output_tokens_max) if meter is None else meter
        self._writer = writer
        self.teller = teller
        # LangChain's ids of calls of tools that the agent's own tools make.
        self._nested: dict[UUID, tuple[str | None, tuple[str, ...], float]] = {}
        self._before_call = before_call
        self.reserving: Reserving | None = None
        self._loop = asyncio.get_running_loop()
        # The pieces of the newest of the agent's own calls that call tools.
        self._calling: list[AIMessageChunk] = []

    def pieces(self) -> Sequence[ToolCallChunk]:
        """Give the tool calls of the newest own model call as they were streamed, merged."""
        if not self._calling:
            return ()
        # Added up once: LangChain's sum of a sum takes time by the square of their number.
        first, *others = self._calling
        return add_ai_message_chunks(first, *others).tool_call_chunks

    async def repeat(self, text: str) -> None:
        """Write what the agent's model said in an earlier attempt, as if it said it now."""
        await self._writer.write(text if self._writer.empty else _BETWEEN_MESSAGES + text)

    @property
    @override
    def ignore_agent(self) -> bool:
        """Spare LangChain the tools' callbacks where nobody listens."""
        return not self.teller.wanted

    def tap_output_aiter(
        self,
        run_id: UUID,  # noqa: ARG002
        output: AsyncIterator[T],
    ) -> AsyncIterator[T]:
        """Leave a runnable's output alone; see the module's docstring."""
        return output

    def tap_output_iter(
        self,
        run_id: UUID,  # noqa: ARG002
        output: Iterator[T],
    ) -> Iterator[T]:
        """Leave a runnable's output alone; see the module's docstring."""
        return output

    @override
    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Calls of a graph's nodes and tools have the graph's run above them.
        is_own = parent_run_id is None or _is_agents_own(metadata or {})
        params = kwargs.get("invocation_params") or {}
        call = self.meter.begin(
            run_id, messages[0] if messages else (), params, metadata or {}, is_own=is_own
        )
        if is_own:
            self._calling = []
        # What a tool asks of models is not the agent's next call: its cost counts once it is known.
        reserves = is_own or INTERNAL_CALL_METADATA_KEY in (metadata or {})
        await self._allowed(run_id, call if reserves else None)
        if self.teller.is_heard:
            call.tags = kwargs.get("tags")
            await self.teller.model_started(run_id, call.model, is_own=is_own, tags=call.tags)

    @override
    async def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Of a model that is no chat model, which only a tool may call.
        params = kwargs.get("invocation_params") or {}
        said = [HumanMessage(each) for each in prompts]
        call = self.meter.begin(run_id, said, params, metadata or {}, is_own=False)
        await self._allowed(run_id)
        if self.teller.is_heard:
            call.tags = kwargs.get("tags")
            await self.teller.model_started(run_id, call.model, is_own=False, tags=call.tags)

    async def _allowed(self, run_id: UUID, reserves: ModelCall | None = None) -> None:
        # LangChain calls the model only once this has returned, streaming or not. In a tool's
        # thread it has a loop of its own there, and what the lane waits for belongs to another.
        if asyncio.get_running_loop() is not self._loop:
            return
        try:
            if self._before_call is not None:
                await self._before_call()
            if self.reserving is not None and reserves is not None:
                await self.reserving.reserve(reserves)
        except BaseException:
            self.meter.forget(run_id)
            raise

    @override
    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        call = self.meter.under_way(run_id)
        if call is None:
            return
        is_text = type(token) is str
        if token and is_text:
            call.hear(token)  # type: ignore[arg-type]
        # Most pieces are text and nothing else.
        if not is_text or not token or chunk is None or _holds_more(chunk):
            self._look_at(call, chunk)
        if not call.is_own:
            return
        said = chunk.message if isinstance(chunk, ChatGenerationChunk) else None
        if isinstance(said, AIMessageChunk) and said.tool_call_chunks:
            self._calling.append(said)
        if isinstance(token, str):
            text = token
        else:
            text = chunk.message.text if isinstance(chunk, ChatGenerationChunk) else ""
        if text:
            await self._write(call, text)

    async def on_answer_text(self, run_id: UUID, text: str) -> None:
        """Take in a piece of an own call's answer that is text and nothing else."""
        call = self.meter.under_way(run_id)
        if call is not None:
            call.hear(text)
            await self._write(call, text)

    @override
    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        message = _message_of(response)
        call = self.meter.end(run_id, message)
        is_own = call is not None and call.is_own
        if call is not None and is_own and not call.has_spoken and message and message.text:
            await self._write(call, message.text)
        if self.teller.is_heard and call is not None:
            await self._tell_answer(run_id, call, message)
        if is_own and message is not None:
            self.ending.see(message)

    @override
    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        call = self.meter.fail(run_id, error)
        self.model_error = error
        if self.teller.is_heard and call is not None:
            await self.teller.model_failed(
                run_id,
                call.model,
                error,
                reason_of(as_foreseen(error) or error),
                is_own=call.is_own,
                tags=call.tags,
                seconds=call.took_s,
            )

    async def _tell_answer(self, run_id: UUID, call: ModelCall, message: AIMessage | None) -> None:
        calls = [] if message is None else message.tool_calls
        await self.teller.model_ended(
            run_id,
            call.model,
            is_own=call.is_own,
            tags=call.tags,
            seconds=call.took_s,
            usage=call.used,
            finish_reason=None if message is None else finish_reason_of(message) or "unknown",
            tools=[one["name"] for one in calls],
        )

    def _look_at(
        self, call: ModelCall, chunk: GenerationChunk | ChatGenerationChunk | None
    ) -> None:
        if not isinstance(chunk, ChatGenerationChunk):
            return
        message = chunk.message
        if isinstance(message, AIMessageChunk) and message.usage_metadata is not None:
            call.report(message.usage_metadata, message.response_metadata.get("model_provider"))
        info = chunk.generation_info
        if info and DOUBT in info:
            call.doubt = str(info[DOUBT])
        if call.look_at(message) and call.is_own:
            self.ending.think(message)

    # The calls of the agent's own tools are told where they are made (`call_gate.py`): LangChain
    # knows nothing of those that are not made, and of an answer only what the tool returned.

    @override
    async def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("tool_call_id") in self.teller.tools_under_way:
            return
        name = serialized.get("name")
        self._nested[run_id] = (name, tuple(tags or ()), monotonic())
        await self.teller.event(
            "tool_start", run_id=run_id, name=name, tags=tuple(tags or ()), detail=input_str
        )

    @override
    async def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        told = getattr(output, "content", output)
        has_media = isinstance(told, list) and any(map(is_media, told))
        await self._nested_ended(
            "tool_end", run_id, labelled_text(told) if has_media else str(told)
        )

    @override
    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        await self._nested_ended("tool_error", run_id, words_of(error))

    async def _nested_ended(self, kind: EventKind, run_id: UUID, detail: str) -> None:
        if (begun := self._nested.pop(run_id, None)) is not None:
            name, tags, began_s = begun
            took = round((monotonic() - began_s) * 1000)
            await self.teller.event(
                kind, run_id=run_id, name=name, tags=tags, detail=detail, duration_ms=took
            )

    async def _write(self, call: ModelCall, text: str) -> None:
        if not call.has_spoken:
            call.has_spoken = True
            if not self._writer.empty:
                text = _BETWEEN_MESSAGES + text
        if self.teller.hears_tokens:
            await self.teller.event("token", name=self.teller.model, detail=text)
        await self._writer.write(text)


def _holds_more(chunk: GenerationChunk | ChatGenerationChunk) -> bool:
    if chunk.generation_info:
        return True
    message: Any = getattr(chunk, "message", None)
    return message is not None and bool(message.additional_kwargs or message.usage_metadata)


def _is_agents_own(metadata: dict[str, Any]) -> bool:
    # A nested agent's namespace has a part for the node of the outer one, joined by a bar.
    namespace: str = metadata.get("langgraph_checkpoint_ns", "")
    # What a middleware asks a model is marked so, in the agent's own node as well.
    if INTERNAL_CALL_METADATA_KEY in metadata:
        return False
    return metadata.get("langgraph_node") == "model" and "|" not in namespace


def _message_of(response: LLMResult) -> AIMessage | None:
    for generations in response.generations:
        for generation in generations:
            if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                return generation.message
    return None
