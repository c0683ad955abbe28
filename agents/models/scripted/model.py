"""A chat model that plays a script: for tests and benchmarks that need an answer on cue.

What it plays depends on the conversation alone, never on what it was asked before. So any number
of runs may share one, and a run that is resumed goes on where it was.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
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
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from typing_extensions import override

from millstream.agents.models.scripted.script import (
    Call,
    Endless,
    Fail,
    Hang,
    Pacing,
    Say,
    Script,
    Turn,
    parse_script,
)
from millstream.schemas.errors import ModelFailed, Terminal

__all__ = ["SCRIPTED_MODEL_NAME", "ScriptedChatModel"]

SCRIPTED_MODEL_NAME: Final = "scripted"

_TOKEN: Final = re.compile(r"\s*\S+|\s+\Z")
TEXT_CHARS_MAX: Final = 1_000_000
"""Longest text to say, its placeholders filled in: each may stand for a whole input, many times."""

_AFTER_THE_END: Final = Turn(Say("{tool_result}"))


@dataclass(frozen=True, slots=True)
class _Wait:
    """A pause in the play; `None` is for ever."""

    seconds: float | None


class ScriptedChatModel(BaseChatModel):
    """Play `script`, or where none is given the one that the newest human message spells out.

    `scripted.script` describes the cues: `say: hello`, `call: add {"a": 1, "b": 2}; say: it is
    {tool_result}`, `tokens: 101`, `fail: reason`, `slow: 2.0; say: hi`, … A message without a cue
    is echoed. Beyond its last turn the model says the newest tool result. The usage counts words
    as tokens, in and out.

    Calls raise what the script says, and `Terminal` if it cannot be read.
    """

    model_name: str = SCRIPTED_MODEL_NAME
    script: Script | None = None

    @property
    @override
    def _llm_type(self) -> str:
        return "millstream-scripted"

    @property
    @override
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    @override
    def _resolve_model_profile(self) -> ModelProfile:
        return {"reasoning_output": False}

    @override
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Accept any tools: which of them are called is the script's business."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for event in self._play(messages, stop):
            if isinstance(event, ChatGenerationChunk):
                yield event
            elif event.seconds is None:
                await asyncio.get_running_loop().create_future()
            else:
                await asyncio.sleep(event.seconds)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for event in self._play(messages, stop):
            if isinstance(event, ChatGenerationChunk):
                yield event
            elif event.seconds is None:
                threading.Event().wait()
            else:
                time.sleep(event.seconds)

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

    def _play(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None
    ) -> Iterator[_Wait | ChatGenerationChunk]:
        turn = self._turn(messages)
        if turn.pacing.first_token_delay_s:
            yield _Wait(turn.pacing.first_token_delay_s)
        match turn.step:
            case Say(text):
                tokens = _tokens(_until(stop, _filled_in(text, messages)))
                yield from self._say(tokens, turn.pacing, messages)
            case Call(uses):
                yield self._last(
                    [
                        tool_call_chunk(
                            name=use.name,
                            args=json.dumps(use.args),
                            # Unique in its conversation, and the same if the turn is played again.
                            id=f"call_{len(messages)}_{index}",
                            index=index,
                        )
                        for index, use in enumerate(uses)
                    ],
                    messages,
                )
            case Fail(message, retryable):
                raise ModelFailed(message) if retryable else Terminal(message)
            case Hang():
                yield _Wait(None)
            case Endless():
                yield from self._endless(turn.pacing)

    def _turn(self, messages: Sequence[BaseMessage]) -> Turn:
        played = 0
        for message in reversed(messages):
            if _is_input(message):
                break
            played += isinstance(message, AIMessage)
        script = parse_script(_newest_input(messages)) if self.script is None else self.script
        return script[played] if played < len(script) else _AFTER_THE_END

    def _say(
        self, tokens: list[str], pacing: Pacing, messages: Sequence[BaseMessage]
    ) -> Iterator[_Wait | ChatGenerationChunk]:
        breaks_at = pacing.breaks_after_tokens
        for index, token in enumerate(tokens):
            if index == breaks_at:
                message = f"broke off after {index} tokens, as the script says"
                raise ModelFailed(message)
            if index and pacing.token_delay_s:
                yield _Wait(pacing.token_delay_s)
            if index < len(tokens) - 1:
                yield ChatGenerationChunk(message=AIMessageChunk(content=token))
            else:
                yield self._last(token, messages, output_tokens=len(tokens))
        if not tokens:
            yield self._last("", messages)

    def _endless(self, pacing: Pacing) -> Iterator[_Wait | ChatGenerationChunk]:
        for index in itertools.count():
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"t{index} "))
            # Also a wait of no time: without one it could never be cancelled.
            yield _Wait(pacing.token_delay_s)

    def _last(
        self,
        answer: str | list[ToolCallChunk],
        messages: Sequence[BaseMessage],
        *,
        output_tokens: int | None = None,
    ) -> ChatGenerationChunk:
        text, calls = (answer, []) if isinstance(answer, str) else ("", answer)
        input_tokens = sum(len(message.text.split()) for message in messages)
        if output_tokens is None:
            output_tokens = sum(1 + len((call["args"] or "").split()) for call in calls)
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content=text,
                tool_call_chunks=calls,
                usage_metadata=UsageMetadata(
                    input_tokens=input_tokens,
                    output_tokens=output_tokens,
                    total_tokens=input_tokens + output_tokens,
                ),
                chunk_position="last",
            ),
            generation_info={
                "finish_reason": "tool_calls" if calls else "stop",
                "model_name": self.model_name,
            },
        )


def _is_input(message: BaseMessage) -> bool:
    """Whether a message is the user's, and not what the model is told of its last answer."""
    return (
        isinstance(message, HumanMessage) and "millstream_repair" not in message.additional_kwargs
    )


def _newest_input(messages: Sequence[BaseMessage]) -> str:
    return next((str(m.text) for m in reversed(messages) if _is_input(m)), "")


def _filled_in(text: str, messages: Sequence[BaseMessage]) -> str:
    # In this order, so that a placeholder inside a tool's result is left alone.
    if "{input}" in text:
        text = _replaced(text, "{input}", _newest_input(messages))
    if "{tool_result}" in text:
        results = (str(m.text) for m in reversed(messages) if isinstance(m, ToolMessage))
        text = _replaced(text, "{tool_result}", next(results, ""))
    return text


def _replaced(text: str, placeholder: str, by: str) -> str:
    length = len(text) + text.count(placeholder) * (len(by) - len(placeholder))
    if length > TEXT_CHARS_MAX:
        message = f"the script says {length:,} characters, more than {TEXT_CHARS_MAX:,}: shorten it"
        raise Terminal(message)
    return text.replace(placeholder, by)


def _until(stop: Sequence[str] | None, text: str) -> str:
    ends = [text.index(mark) for mark in stop or () if mark in text]
    return text[: min(ends)] if ends else text


def _tokens(text: str) -> list[str]:
    """Split before each word, so that the tokens joined are the text."""
    return _TOKEN.findall(text)
