"""LangChain's messages as JSON: all of a message's fields, those at their defaults left out.

The form is that of `BaseMessage.model_dump`, with values as `values.py` writes them. LangChain's
own readers are not used: `messages_from_dict` parses calls anew out of `additional_kwargs`, so that
calls that an answer was checked to be without are back, and drops what providers put beside a
call's arguments, as Gemini's signatures of thoughts; `load` makes objects of any class that the
data names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from typing_extensions import override

from millstream.agents.sessions.recorded.values import (
    LEFT_OUT,
    ValueReader,
    ValueWriter,
    Where,
    is_object,
)
from millstream.schemas.journal.errors import JournalUnreadable

__all__ = ["MessageReader", "MessageWriter", "as_json", "from_json", "nearest"]

MessageT = TypeVar("MessageT", bound=BaseMessage)

MESSAGE: Final = "$message"
"""The key of an object that holds a message, inside of another value."""

_KNOWN: Final[Mapping[str, type[BaseMessage]]] = {
    "ai": AIMessage,
    "human": HumanMessage,
    "system": SystemMessage,
    "tool": ToolMessage,
    "function": FunctionMessage,
    "chat": ChatMessage,
    "remove": RemoveMessage,
}
_TYPE_OF: Final = {known: name for name, known in _KNOWN.items()}
_DEFAULTS: Final[Mapping[type[BaseMessage], Mapping[str, Any]]] = {
    known: {
        name: field.get_default(call_default_factory=True)
        for name, field in known.model_fields.items()
        if name not in {"content", "type"} and not field.is_required()
    }
    for known in _KNOWN.values()
}
_REQUIRED: Final[Mapping[type[BaseMessage], tuple[str, ...]]] = {
    known: tuple(one for one, field in known.model_fields.items() if field.is_required())
    for known in _KNOWN.values()
}
# Copied with other fields, which takes a tenth of the time of `model_construct`.
_EMPTY: Final = {
    known: known.model_construct(content="", type=name) for name, known in _KNOWN.items()
}
_SHOWN: Final = frozenset({"content", "tool_calls", "invalid_tool_calls"})
"""What a model is shown again; the rest of a message is for programs."""


def as_json(message: BaseMessage) -> dict[str, Any]:
    """Write a message; what JSON cannot hold in the nearest form. It shares nothing with it."""
    return MessageWriter().message(message)


def from_json(written: Any) -> BaseMessage:
    """Read a message. Raises `JournalUnreadable` for what `as_json` does not write."""
    try:
        return MessageReader().message(written)
    except (ValueError, RecursionError) as error:
        message = f"a message cannot be read: {error}"
        raise JournalUnreadable(message) from error


def nearest(message: MessageT) -> MessageT:
    """Give a message as it is read back: itself, if all of it can be written."""
    writer = MessageWriter()
    written = writer.message(message)
    # Of its own type: a subclass is read as what it is a kind of.
    return message if writer.is_exact else from_json(written)  # type: ignore[return-value]


class MessageWriter(ValueWriter):
    """Writes messages, and values that hold messages."""

    def message(
        self, message: BaseMessage, where: Where = "message", depth: int = 0
    ) -> dict[str, Any]:
        """Write a message that stands at `where`."""
        known = next((one for one in type(message).__mro__ if one in _TYPE_OF), None)
        if known is None:
            self.lose(where, f"a message of type {type(message).__name__}")
            own: Mapping[str, Any] = {"content": message.content, "role": message.type}
            known = ChatMessage
        else:
            declared = type(message).model_fields
            own = {name: one for name, one in message.__dict__.items() if name in declared}
            own.update(message.__pydantic_extra__ or {})
            self.is_exact = self.is_exact and type(message) is known
            if isinstance(message, BaseMessageChunk):
                own = {name: one for name, one in own.items() if name in known.model_fields}
        written: dict[str, Any] = {"type": _TYPE_OF[known]}
        defaults = _DEFAULTS[known]
        for name in (*_REQUIRED[known], *(one for one in own if one not in _REQUIRED[known])):
            value = own.get(name)
            if name == "type" or (
                name in defaults and type(value) is type(defaults[name]) and value == defaults[name]
            ):
                continue
            at = (where, name)
            kept = self.value(value, at, depth + 1, shown=name in _SHOWN)
            if (fits := _FITS.get(name)) is not None and not fits(kept):
                kept = self._repaired(name, value, kept, at)
            if kept is not LEFT_OUT:
                written[name] = kept
        return written

    def _repaired(self, name: str, value: Any, kept: Any, where: Where) -> Any:
        self.lose(where, f"{type(value).__name__}, which this field cannot hold")
        if name == "content":
            if isinstance(value, list | tuple):
                ones = [self.value(one, where, 2, shown=True) for one in value]
                return [one if _is_text(one) or is_object(one) else _in_words(one) for one in ones]
            return "" if value is None else _in_words(kept)
        if name in {"tool_calls", "invalid_tool_calls"}:
            fits = _is_call if name == "tool_calls" else _is_invalid_call
            return [one for one in kept if fits(one)] if isinstance(kept, list) else []
        if name in {"tool_call_id", "role"}:
            return "" if value is None else _in_words(kept)
        if name == "status":
            return "error"
        return _in_words(kept) if name in {"id", "name"} and kept is not LEFT_OUT else LEFT_OUT

    @override
    def _other(self, value: Any, where: Where, depth: int, *, shown: bool) -> Any:
        if isinstance(value, BaseMessage):
            return {MESSAGE: self.message(value, where, depth + 1)}
        return super()._other(value, where, depth, shown=shown)


class MessageReader(ValueReader):
    """Reads messages, and values that hold messages."""

    def message(self, written: Any) -> BaseMessage:
        """Read a message. Raises `ValueError` for what a `MessageWriter` does not write."""
        if type(written) is not dict or not is_object(written):
            problem = f"it is no object but {type(written).__name__}"
            raise ValueError(problem)
        known = _KNOWN.get(name) if isinstance(name := written.get("type"), str) else None
        if known is None:
            problem = (
                f"its type {name!r} is not known here; if a newer version wrote it, have its "
                "workers go on with the run"
            )
            raise ValueError(problem)
        for field in _REQUIRED[known]:
            if field not in written:
                problem = f"{field!r} is missing"
                raise ValueError(problem)
        for field, value in written.items():
            if field in _FITS and field in known.model_fields and not _FITS[field](value):
                problem = f"{field!r} holds what it cannot"
                raise ValueError(problem)
        fields = {
            name: default.copy() if isinstance(default, list | dict) else default
            for name, default in _DEFAULTS[known].items()
        }
        fields.update((one, self.value(value)) for one, value in written.items())
        # No validator is to change what was written.
        return _EMPTY[known].model_copy(update=fields)

    @override
    def tagged(self, key: str, held: Any) -> Any:
        """Read what stands in an object under the name of its type."""
        return self.message(held) if key == MESSAGE else super().tagged(key, held)


def _is_text(written: Any) -> bool:
    return type(written) is str


def _is_word(written: Any) -> bool:
    return written is None or type(written) is str


def _is_content(written: Any) -> bool:
    if type(written) is list:
        return all(type(one) is str or is_object(one) for one in written)
    return type(written) is str


def _is_call(written: Any) -> bool:
    return (
        is_object(written)
        and _is_text(written.get("name"))
        and is_object(written.get("args"))
        and _is_word(written.get("id"))
    )


def _is_invalid_call(written: Any) -> bool:
    return is_object(written) and all(
        _is_word(written.get(one)) for one in ("name", "args", "id", "error")
    )


def _is_usage(written: Any) -> bool:
    if written is None:
        return True
    counts = ("input_tokens", "output_tokens")
    return is_object(written) and all(type(written.get(one)) is int for one in counts)


def _in_words(written: Any) -> str:
    return written if type(written) is str else str(written)[:1_000]


_FITS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "content": _is_content,
    "additional_kwargs": is_object,
    "response_metadata": is_object,
    "name": _is_word,
    "id": _is_word,
    "tool_calls": lambda written: type(written) is list and all(map(_is_call, written)),
    "invalid_tool_calls": lambda written: (
        type(written) is list and all(map(_is_invalid_call, written))
    ),
    "usage_metadata": _is_usage,
    "tool_call_id": _is_text,
    "status": lambda written: written in ("success", "error"),
    "role": _is_text,
}
"""What a field may hold, as it is written."""
