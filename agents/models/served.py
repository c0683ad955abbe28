"""Chat models as they are served: what streams and bodies hold that LangChain's classes pass over.

A provider's class is made by LangChain and then given a class of ours, which inherits from it, so
that it is one and the same model to everybody. Any class gets the limit of its answers held to.
Those of the dialects that are known (`dialects`) are also checked for errors told in a body of
status 200, streams that end without a sign of their end, and reports of usage that are no numbers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import cache
from typing import Any, Final

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.outputs import ChatGenerationChunk
from pydantic import PrivateAttr

from millstream.agents.models.dialects.anthropic import AnthropicReading
from millstream.agents.models.dialects.bound import AnswerBound
from millstream.agents.models.dialects.chat_completions import ServerManners
from millstream.agents.models.dialects.gemini import GeminiReading
from millstream.agents.models.dialects.ollama import OllamaReading
from millstream.agents.models.dialects.openai import OpenAiReading, check_reports_of_responses
from millstream.agents.models.dialects.reading import Reading

__all__ = ["as_served"]

_READINGS: Final[dict[str, type[Reading]]] = {
    "BaseChatOpenAI": OpenAiReading,
    "ChatAnthropic": AnthropicReading,
    "ChatGoogleGenerativeAI": GeminiReading,
    "ChatOllama": OllamaReading,
}
"""By the name of the class that LangChain's package has for the dialect, or builds others on."""


def as_served(model: BaseChatModel, output_tokens_max: int | None) -> BaseChatModel:
    """Have a provider's model keep to its limit, and tell how its answers really ended.

    It is changed in place. A model that cannot stream stays as it is.
    """
    kind = type(model)
    # LangChain itself tells in this way whether a model streams.
    base = BaseChatModel
    if kind._astream is base._astream and kind._stream is base._stream:  # noqa: SLF001
        return model
    names = [each.__name__ for each in kind.__mro__]
    reading: Any = next((_READINGS[name] for name in names if name in _READINGS), None)
    if reading is OpenAiReading:
        check_reports_of_responses(model)
        if getattr(model, "stream_usage", None) is None:
            # LangChain asks only where neither a client nor a base URL is set: others send no bill.
            object.__setattr__(model, "stream_usage", True)
        if getattr(model, "stream_chunk_timeout", None):
            # It waits for each chunk by `asyncio.wait_for`, which loses a cancellation that comes
            # with a chunk (cpython#86296, until 3.12): a cancelled call went on. An attempt has a
            # limit of its own.
            object.__setattr__(model, "stream_chunk_timeout", None)
    object.__setattr__(model, "__class__", _served(kind, reading))
    object.__setattr__(
        model,
        "__pydantic_private__",
        {
            **(model.__pydantic_private__ or {}),
            "_output_tokens_max": output_tokens_max,
            "_manners": ServerManners(
                tells_usage=getattr(model, "stream_usage", None) is not False
            ),
        },
    )
    return model


@cache
def _served(kind: type[BaseChatModel], reading: Any) -> type[BaseChatModel]:
    bases = (_Bounded, kind) if reading is None else (reading, _Bounded, kind)
    body = {
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "__annotations__": {"_output_tokens_max": "int | None", "_manners": "Any"},
        "_output_tokens_max": PrivateAttr(default=None),
        "_manners": PrivateAttr(default=None),
    }
    # LangChain reads a model's provider from the name of its class.
    return type(kind.__name__, bases, body)


class _Bounded:
    """Ends an answer that passes its limit: closes the connection, and says `length`."""

    __slots__ = ()

    _output_tokens_max: int | None

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        chunks = super()._astream(*args, **kwargs)  # type: ignore[misc]
        if self._output_tokens_max is None:
            async for chunk in chunks:
                yield chunk
            return
        bound = AnswerBound(self._output_tokens_max)
        async with aclosing(chunks):
            async for chunk in chunks:
                if (last := bound.cut(chunk)) is not None:
                    yield last
                    return
                yield chunk
