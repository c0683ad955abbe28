"""What a tool returned, as text or blocks of content that a conversation can hold.

LangChain writes what it does not know by `str`, and NaN as JSON has no NaN: a model was told of
coroutines and of addresses in memory, and readers of the conversation could not parse it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Coroutine
from typing import Any, Final

from langchain_core.messages.tool import ToolOutputMixin
from langchain_core.tools import BaseTool
from langchain_core.tools.base import TOOL_MESSAGE_BLOCK_TYPES
from pydantic_core import to_json

from millstream.schemas.reasons import words_of

__all__ = ["as_content", "shown_result"]

_PAIR: Final = 2
_RETURN: Final = "return text, numbers, lists, dicts, a dataclass or a pydantic model"


def shown_result(tool: BaseTool, value: Any) -> Any:
    """Give what a tool returned as LangChain is to have it. Raises `TypeError` as `as_content`."""
    if tool.response_format == "content_and_artifact" and isinstance(value, tuple):
        if len(value) == _PAIR:
            return as_content(tool.name, value[0]), value[1]
        return value
    return as_content(tool.name, value)


def as_content(name: str, value: Any) -> Any:
    """Give a result as text, unless it is a message, a command or blocks of content.

    Raises `TypeError`, which says that the call was made and what to return, for what has no text:
    a generator or a coroutine of which nothing ran, bytes, an object that does not say what it is.
    """
    if isinstance(value, str | ToolOutputMixin) or _is_blocks(value):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(name, bytes(value))
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        message = f"the tool {name!r} returned a generator, of which nothing was run"
        raise TypeError(message)
    if inspect.isawaitable(value):
        if isinstance(value, Coroutine):
            value.close()
        message = f"the tool {name!r} returned an awaitable that nobody awaits"
        raise TypeError(message)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _written(name, value)


def _is_blocks(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(one, str | ToolOutputMixin)
        or (isinstance(one, dict) and one.get("type") in TOOL_MESSAGE_BLOCK_TYPES)
        for one in value
    )


def _written(name: str, value: Any) -> str:
    try:
        text = to_json(
            value, inf_nan_mode="strings", bytes_mode="base64", fallback=_text_of
        ).decode()
    except Exception as error:
        kind = type(value).__qualname__
        message = (
            f"the tool {name!r} was called, but its result, of the type {kind}, cannot be shown "
            f"({words_of(error)}): {_RETURN}"
        )
        raise TypeError(message) from error
    # Alone, it needs no quotes: a date, a path, an enum.
    return json.loads(text) if text.startswith('"') else text


def _text_of(value: Any) -> str:
    kind: Any = type(value)
    if kind.__repr__ is object.__repr__ and kind.__str__ is object.__str__:
        message = f"a {kind.__qualname__} does not say what it is"
        raise TypeError(message)
    return str(value)


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = (
            f"the tool {name!r} was called, but returned {len(value)} bytes that are no text: "
            f"{_RETURN}, or an image as a block of content"
        )
        raise TypeError(message) from error
