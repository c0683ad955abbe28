"""Chat models as they are served: what streams and bodies hold that LangChain's classes pass over.

A provider's class is made by LangChain and then given a class of ours, which inherits from it, so
that it is one and the same model to everybody. Any class gets the limit of its answers held to.
One that is built on `langchain-openai` is also checked for errors told in a body of status 200,
streams that end without a sign of their end, and reports of usage that are no numbers.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from millstream.agents.models.body_watch import WATCHING, BodyWatch
from millstream.agents.models.errors import error_in, error_said, refuses_stream_options
from millstream.agents.models.usage import DOUBT, clean_report
from millstream.schemas.errors import ModelFailed

__all__ = ["BYTES_PER_TOKEN_MAX", "as_served"]

BYTES_PER_TOKEN_MAX: Final = 32
"""An answer of more bytes than this times its limit of tokens has passed the limit: the longest
tokens are runs of blanks, and a language's words have 4 bytes on average."""

_log = structlog.get_logger(__name__)

_OPENAI_HOSTS: Final = ("api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")
_NEWER_MODELS: Final = re.compile(r"(openai/)?(o\d|gpt-[5-9])")

_UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError)
"""What classes raise over a chunk or body of another shape than their provider documents."""


def as_served(model: BaseChatModel, output_tokens_max: int | None) -> BaseChatModel:
    """Have a provider's model keep to its limit, and tell how its answers really ended.

    It is changed in place. A model that cannot stream stays as it is.
    """
    kind = type(model)
    # LangChain itself tells in this way whether a model streams.
    base = BaseChatModel
    if kind._astream is base._astream and kind._stream is base._stream:  # noqa: SLF001
        return model
    on_openai = any(each.__name__ == "BaseChatOpenAI" for each in kind.__mro__)
    if on_openai and getattr(model, "stream_usage", None) is None:
        # LangChain asks only where neither a client nor a base URL is set: others send no bill.
        object.__setattr__(model, "stream_usage", True)
    object.__setattr__(model, "__class__", _served(kind, on_openai))
    object.__setattr__(
        model,
        "__pydantic_private__",
        {**(model.__pydantic_private__ or {}), "_output_tokens_max": output_tokens_max},
    )
    return model


@cache
def _served(kind: type[BaseChatModel], on_openai: bool) -> type[BaseChatModel]:  # noqa: FBT001
    bases = (_ChatCompletions, _Bounded, kind) if on_openai else (_Bounded, kind)
    body = {
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "__annotations__": {"_output_tokens_max": "int | None"},
        "_output_tokens_max": PrivateAttr(default=None),
    }
    # LangChain reads a model's provider from the name of its class.
    return type(kind.__name__, bases, body)


class _Bounded:
    """Ends an answer that passes its limit: closes the connection, and says `length`."""

    __slots__ = ()

    _output_tokens_max: int | None

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        limit = self._output_tokens_max
        chunks = super()._astream(*args, **kwargs)  # type: ignore[misc]
        if limit is None:
            async for chunk in chunks:
                yield chunk
            return
        pieces, bytes_left = 0, limit * BYTES_PER_TOKEN_MAX
        async with aclosing(chunks):
            async for chunk in chunks:
                size_bytes = _size_bytes(chunk)
                if size_bytes:
                    pieces += 1
                    bytes_left -= size_bytes
                    if pieces > limit or bytes_left < 0:
                        yield _cut(chunk, size_bytes + bytes_left if pieces <= limit else 0)
                        return
                yield chunk


class _ChatCompletions:
    """Reads what servers that speak OpenAI's chat completions send beside what OpenAI does."""

    __slots__ = ()

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        try:
            async with aclosing(self._read(*args, **kwargs)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:
            if not refuses_stream_options(error):
                raise
        else:
            return
        # Once and for all; what its calls used is estimated.
        _log.warning("a model's server does not tell the usage of streams")
        object.__setattr__(self, "stream_usage", False)
        async with aclosing(self._read(*args, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _read(self, *args: Any, **kwargs: Any) -> AsyncGenerator[ChatGenerationChunk, None]:
        watch = BodyWatch()
        WATCHING.set(watch)
        ended = began = False
        try:
            async with aclosing(super()._astream(*args, **kwargs)) as chunks:  # type: ignore[misc]
                async for chunk in chunks:
                    began = True
                    if not ended:
                        ended = _tells_its_end(chunk)
                    yield chunk
        except _UNREADABLE as error:
            if watch.content_type is None and not began:
                raise  # nothing came: the fault is in what was to be sent
            told = error_said(str(error))
            if told is not None:
                raise told from error
            message = f"the model's provider sent what cannot be read: {error}"
            raise ModelFailed(message, may_cost=True) from error
        if not ended and not (watch.ended and began):
            raise _broke_off(watch, began=began)

    def _get_request_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(*args, **kwargs)  # type: ignore[misc]
        if "max_completion_tokens" in payload and _knows_the_older_name(self):
            payload["max_tokens"] = payload.pop("max_completion_tokens")
        return payload

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *args: Any
    ) -> ChatGenerationChunk | None:
        if (error := error_in(chunk)) is not None:
            raise error
        doubt = None
        if (report := chunk.get("usage")) is not None:
            chunk["usage"], doubt = clean_report(report)
        made: ChatGenerationChunk | None = super()._convert_chunk_to_generation_chunk(  # type: ignore[misc]
            chunk, *args
        )
        if made is None:
            return None
        if doubt is not None:
            made.generation_info = {**(made.generation_info or {}), DOUBT: doubt}
        choices = chunk.get("choices")
        delta = choices[0].get("delta") if choices else None
        if delta and (thought := _reasoning(delta)):
            made.message.additional_kwargs["reasoning_content"] = thought
        return made

    def _create_chat_result(self, response: Any, generation_info: Any = None) -> ChatResult:
        told = response if isinstance(response, Mapping) else None
        if told is None and hasattr(response, "model_dump"):
            told = response.model_dump(exclude={"choices": {"__all__": {"message": {"parsed"}}}})
        if told is None or not told.get("choices"):
            raise error_in(told) or ModelFailed(
                f"the model's provider answered with no completion: {str(response)[:200]!r}",
                may_cost=True,
                is_over=True,
            )
        report = told.get("usage")
        cleaned, doubt = (None, None) if report is None else clean_report(report)
        if doubt is not None:
            response = {**told, "usage": cleaned}
        made: ChatResult = super()._create_chat_result(response, generation_info)  # type: ignore[misc]
        for generation, choice in zip(made.generations, told["choices"], strict=False):
            if doubt is not None:
                generation.message.response_metadata[DOUBT] = doubt
            if thought := _reasoning(choice.get("message") or {}):
                generation.message.additional_kwargs["reasoning_content"] = thought
        return made


def _knows_the_older_name(model: Any) -> bool:
    """Whether a server calls the limit `max_tokens`, and passes over its newer name unsaid.

    So do most that are not OpenAI's or Azure's; a gateway to OpenAI's newer models refuses the
    older name as they do.
    """
    base_url = model.openai_api_base
    if not isinstance(base_url, str) or _NEWER_MODELS.match(model.model_name):
        return False
    return not (urlsplit(base_url).hostname or "").endswith(_OPENAI_HOSTS)


def _tells_its_end(chunk: ChatGenerationChunk) -> bool:
    """Whether a chunk says that the answer is whole.

    By its reason; by being the last, of OpenAI's responses; or, where the reason stays null (older
    versions of Ollama), by the report of usage, which comes behind all text.
    """
    info = chunk.generation_info
    if info and info.get("finish_reason"):
        return True
    message = chunk.message
    if not isinstance(message, AIMessageChunk):
        return False
    if message.chunk_position == "last":
        return True
    return message.usage_metadata is not None and "model_provider" not in message.response_metadata


def _broke_off(watch: BodyWatch, *, began: bool) -> ModelFailed:
    if began or watch.is_stream:
        why = "without a sign of its end" if began else "before it began"
        return ModelFailed(f"the model's stream ended {why}", may_cost=True, is_over=True)
    error = error_in(watch.body)
    if error is not None:
        raise error
    return ModelFailed(f"the model's provider answered with {watch.content_type} and no stream")


def _reasoning(told: Mapping[str, Any]) -> str | None:
    # DeepSeek, vLLM, llama.cpp, SGLang; OpenRouter, Groq, newer vLLM.
    thought = told.get("reasoning_content") or told.get("reasoning")
    return thought if isinstance(thought, str) else None


def _size_bytes(chunk: ChatGenerationChunk) -> int:
    """Give the bytes of what a chunk holds of the answer: text, reasoning, arguments of calls."""
    message = chunk.message
    content = message.content
    size = len(content.encode(errors="replace")) if isinstance(content, str) else 0
    if not isinstance(content, str):
        for block in content:
            if isinstance(block, Mapping):
                size += sum(
                    len(value.encode(errors="replace"))
                    for name in ("text", "reasoning", "thinking", "partial_json")
                    if isinstance(value := block.get(name), str)
                )
    if thought := message.additional_kwargs.get("reasoning_content"):
        size += len(str(thought).encode(errors="replace"))
    if isinstance(message, AIMessageChunk):
        for call in message.tool_call_chunks:
            size += len((call["args"] or "").encode(errors="replace"))
    return size


def _cut(chunk: ChatGenerationChunk, bytes_left: int) -> ChatGenerationChunk:
    """Give what of a chunk is still within the limit, as the last of its answer."""
    content = chunk.message.content
    text = ""
    if isinstance(content, str) and bytes_left > 0:
        text = content.encode(errors="replace")[:bytes_left].decode(errors="ignore")
    return ChatGenerationChunk(
        message=AIMessageChunk(content=text),
        generation_info={"finish_reason": "length"},
    )
