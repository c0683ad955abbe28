"""A small language model that needs no network, no key and no GPU: SmolLM2-135M-Instruct.

It streams well and knows little: fine for showing the platform, not for judging answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, Final

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field
from typing_extensions import override

from millstream.agents.models.local.call import Event, Finished, Piece
from millstream.agents.models.local.engine import LocalEngine, shared_engine
from millstream.agents.models.local.tool_calls import (
    HeldAnswer,
    OfferedTools,
    call_text,
    result_text,
)
from millstream.agents.models.media.labels import labelled_content

__all__ = ["LOCAL_MODEL_NAME", "LocalChatModel"]

LOCAL_MODEL_NAME: Final = "smollm2-135m-instruct"

_ROLES: Final = {"human": "user", "ai": "assistant", "system": "system"}
_CALL_OPTIONS: Final = ("temperature", "top_p", "max_tokens", "seed", "response_format")


class LocalChatModel(BaseChatModel):
    """The local model as a LangChain chat model; all instances share one engine.

    Of messages, text, tool calls and their results are passed on. `max_tokens` bounds the answer,
    `stop` ends it before any of its strings. `response_format`, an option of a call, holds the
    answer to a JSON schema; tools that are bound hold it to be text, or one call of one of them.

    Calls raise `ModelUnavailable` (not installed), `InputTooLong` (longer than the context of
    2,048 tokens), `ModelFailed` (busy or broken off) and `Terminal` (refused by the engine).
    """

    model_name: str = LOCAL_MODEL_NAME
    # Temperature and top_p as the model's authors recommend them.
    temperature: float = Field(default=0.2, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    engine: LocalEngine = Field(default_factory=shared_engine, exclude=True, repr=False)

    @property
    @override
    def _llm_type(self) -> str:
        return "millstream-local"

    @property
    @override
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    async def warm_up(self) -> None:
        """Load the engine now, rather than during the first call."""
        await self.engine.warm_up()

    @override
    def _resolve_model_profile(self) -> ModelProfile:
        return {
            "max_input_tokens": self.engine.settings.context_tokens_max,
            "reasoning_output": False,
        }

    @override
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to each call; see `OfferedTools` for `tool_choice`.

        The model is held to the form of a call. Whether the call makes sense is beyond it.
        """
        offered = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=offered, tool_choice=tool_choice, **kwargs)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        # Closed here, not by the garbage collector: until then the engine goes on.
        answer = HeldAnswer() if kwargs.get("tools") else None
        async with aclosing(self.engine.astream(self._request(messages, stop, kwargs))) as events:
            async for event in events:
                if (chunk := self._chunk(event, answer)) is not None:
                    yield chunk

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = HeldAnswer() if kwargs.get("tools") else None
        with closing(self.engine.stream(self._request(messages, stop, kwargs))) as events:
            for event in events:
                if (chunk := self._chunk(event, answer)) is not None:
                    yield chunk

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    def _request(
        self,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "messages": _openai_messages(messages),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": list(stop or self.stop),
            "stream": True,
            "stream_options": {"include_usage": True},
            # A chunk after each batch of the prompt, so that a long prompt can be stopped.
            "return_progress": True,
        }
        if self.seed is not None:
            request["seed"] = self.seed
        request.update({name: options[name] for name in _CALL_OPTIONS if name in options})
        if tools := options.get("tools"):
            # The engine takes a form or a grammar, not both.
            form = request.pop("response_format", None) or {}
            answer = form.get("json_schema", {}).get("schema")
            offered = OfferedTools.of(tools, options.get("tool_choice"), answer)
            request["messages"] = offered.put_before(request["messages"])
            request["grammar"] = offered.grammar()
        return request

    def _chunk(self, event: Event, answer: HeldAnswer | None) -> ChatGenerationChunk | None:
        match event:
            case Piece(text):
                shown = text if answer is None else answer.take(text)
                return ChatGenerationChunk(message=AIMessageChunk(content=shown)) if shown else None
            case Finished():
                text, call, reason = "", None, event.reason
                if answer is not None:
                    text, call = answer.end(cut=reason == "length")
                if call is not None and reason == "stop":
                    reason = "tool_calls"
                return ChatGenerationChunk(
                    message=AIMessageChunk(
                        content=text,
                        tool_call_chunks=[] if call is None else [call],
                        usage_metadata=UsageMetadata(
                            input_tokens=event.input_tokens,
                            output_tokens=event.output_tokens,
                            total_tokens=event.input_tokens + event.output_tokens,
                            input_token_details=InputTokenDetails(
                                cache_read=event.input_tokens_cached
                            ),
                        ),
                        chunk_position="last",
                    ),
                    generation_info={
                        "finish_reason": reason,
                        "model_name": self.model_name,
                    },
                )


def _openai_messages(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    called: dict[str | None, str] = {}
    told = []
    for message in messages:
        text = str(message.text)
        if isinstance(message, ToolMessage) and not isinstance(message.content, str):
            seen = message.model_copy(update={"content": labelled_content(message.content)})
            text = str(seen.text)
        if isinstance(message, AIMessage) and message.tool_calls:
            called |= {call["id"]: call["name"] for call in message.tool_calls}
            calls = [call_text(call["name"], call["args"]) for call in message.tool_calls]
            text = "\n".join([text, *calls] if text else calls)
        elif isinstance(message, ToolMessage):
            text = result_text(called.get(message.tool_call_id, "The tool"), text)
        # Half a surrogate pair is valid in a JSON string, but not in the engine's UTF-8.
        text = text.encode(errors="replace").decode()
        told.append({"role": _ROLES.get(message.type, "user"), "content": text})
    return told
