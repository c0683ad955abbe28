"""Values and messages of all kinds that are written to logs, and what makes two the same."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from datetime import timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.types import Overwrite, Send
from pydantic import BaseModel, SecretStr
from pydantic_core import from_json as bytes_read
from pydantic_core import to_json as bytes_written

__all__ = ["exact_values", "messages", "over_the_wire", "same", "values"]


def over_the_wire(written: Any) -> Any:
    """Give JSON values as a reader of their record has them."""
    return bytes_read(bytes_written(written))


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are of equal types and content throughout; NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseMessage | Send | Overwrite):
        return same(_parts(one), _parts(other))
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        return len(one) == len(other) and all(same([*a], [*b]) for a, b in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _parts(one: Any) -> list[Any]:
    if isinstance(one, BaseMessage):
        fields = dict(sorted(one.__dict__.items()))
        return [fields, one.__pydantic_extra__]
    return [one.node, one.arg] if isinstance(one, Send) else [one.value]


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2**70


class Order(BaseModel):
    number: int = 7
    secret: SecretStr = SecretStr("hush")
    paid: float = math.inf


@dataclass(frozen=True)
class Point:
    x: Any = 1
    raw: bytes = b"\xff"


class Word(str):
    """A text of another type, as `AIMessage.text` is."""

    __slots__ = ()


class Torn:
    """Can neither be read nor put in words."""

    def __str__(self) -> str:
        raise RuntimeError

    def tolist(self) -> None:
        raise RuntimeError


_ANY_TEXT = st.text(st.characters(exclude_categories=[])) | st.sampled_from(
    ["\ud83d", "\ud83d\ude00", "\x00", "$bytes", "$dict", "$message", "$new", ""]
)
_TEXT = st.text() | st.sampled_from(["$bytes", "$dict", "$message", "$new", "", "\x00", "\u2028"])
_ZONES = st.none() | st.integers(-1439, 1439).map(lambda at: timezone(timedelta(minutes=at)))
_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**4_299), 10**4_299)
    | st.binary(max_size=8)
    | st.datetimes(timezones=_ZONES)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
)
_KEYS = _ATOMS | st.tuples(_ATOMS, st.frozensets(st.integers(), max_size=2))
_EXACT = (
    _ATOMS | _TEXT | st.floats() | st.frozensets(_KEYS, max_size=3) | st.sets(_KEYS, max_size=3)
)
_ODD = (
    _ANY_TEXT
    | st.sampled_from([Colour.RED, Level.HIGH, Word("w"), object()])
    | st.builds(pow, st.sampled_from([10, -10]), st.just(5_001))
    | st.sampled_from([Order(), Point(), Point(Point()), Torn(), bytearray(b"b"), range(3), len])
    | st.sampled_from([[{Word("k"): {"\ud800": 1, "?": 2}}], {"$ref": object(), "b": {"$ref": 1}}])
    | st.sampled_from([frozenset({Point()}), {Point(): 1, (Colour.RED,): 2}])
)


def _nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> Any:
    return st.recursive(
        leaves,
        lambda ones: (
            st.lists(ones, max_size=3)
            | st.tuples(ones, ones)
            | st.dictionaries(keys, ones, max_size=3)
        ),
        max_leaves=8,
    )


exact_values = _nested(_EXACT, _TEXT | _KEYS)
"""Values that are read back as they were written."""

values = _nested(_EXACT | _ODD, _TEXT | _ANY_TEXT | _KEYS)
"""Those, and values of which only the nearest can be written."""

_OBJECTS = st.dictionaries(_TEXT, values, max_size=3)
_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.text(max_size=4),
            "args": _OBJECTS,
            "id": st.none() | _ANY_TEXT,
            "type": st.just("tool_call"),
        },
        optional={"extras": _OBJECTS},
    ),
    max_size=2,
)
_BAD_CALLS = st.lists(
    st.fixed_dictionaries(dict.fromkeys(("name", "args", "id", "error"), st.none() | _ANY_TEXT)),
    max_size=2,
)
_BLOCKS = st.lists(_ANY_TEXT | _OBJECTS, max_size=3)
_USAGE = st.none() | st.fixed_dictionaries(
    {"input_tokens": st.integers(), "output_tokens": st.integers()},
    optional={"total_tokens": st.integers(), "cost": values},
)


def _message(kind: type[BaseMessage], **fields: st.SearchStrategy[Any]) -> Any:
    common = {
        "content": _ANY_TEXT | _BLOCKS,
        "additional_kwargs": _OBJECTS,
        "response_metadata": _OBJECTS,
        "name": st.none() | _ANY_TEXT,
        "id": st.none() | _ANY_TEXT,
    }
    # As a program that changes a message leaves it: no validator has looked at it.
    odd = st.dictionaries(st.sampled_from([*common, *fields, "more", "cls"]), values, max_size=2)
    made = st.fixed_dictionaries({**common, **fields})
    return st.builds(
        lambda own, changes: kind(content="", **_NEEDED.get(kind, {})).model_copy(
            update={**own, **changes}
        ),
        made,
        st.just({}) | odd,
    )


_NEEDED: dict[type[BaseMessage], dict[str, str]] = {
    ToolMessage: {"tool_call_id": "c"},
    ChatMessage: {"role": "r"},
}
_SAID = {"tool_calls": _CALLS, "invalid_tool_calls": _BAD_CALLS, "usage_metadata": _USAGE}

messages = (
    _message(AIMessage, **_SAID)
    | _message(AIMessageChunk, **_SAID)
    | _message(HumanMessage)
    | _message(SystemMessage)
    | _message(ChatMessage, role=_ANY_TEXT)
    | _message(
        ToolMessage,
        tool_call_id=_ANY_TEXT,
        artifact=values,
        status=st.sampled_from(["success", "error"]),
    )
)
"""Messages with anything in them that a program can put there."""
