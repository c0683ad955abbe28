"""Values as JSON: what is read back is what was written, or the nearest that JSON can say.

JSON's own values stand as they are; integers too, up to the digits that readers take. A few of
Python's, which LangGraph's checkpoints keep as well, stand in an object with one key that names
their type, as in MongoDB's Extended JSON: `{"$bytes": "…"}`. No record can name a class: what is
read are the types of a table.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from millstream.agents.sessions.text import well_formed

__all__ = ["LEFT_OUT", "ValueReader", "ValueWriter", "Where", "is_object"]

DEPTH_MAX: Final = 100
"""How deep JSON may be nested: readers take 200 levels, of which a record's envelope has some."""

VALUES_MAX: Final = 500_000
"""How many values are written of one message or answer; a list or object counts as five more.

What holds itself, or one list twice at each level, would never end, and a loop waits meanwhile.
"""

LOST_NAMED_MAX: Final = 20
"""How many of the values that are not written as they are, are named."""

_WORDS_CHARS_MAX: Final = 1_000
# As many digits as Python reads (CVE-2020-10735), and pydantic.
_INT_MAX: Final = 10**4_300

Where = str | tuple[Any, Any]
"""Where a value stands: a name, or a key or index in what stands at another place."""

LEFT_OUT: Final = object()
"""Stands for a value that is not written at all."""

_BYTES: Final = "$bytes"
_DICT: Final = "$dict"
_FLOAT: Final = "$float"
_TUPLE: Final = "$tuple"
_SET: Final = "$set"
_FROZENSET: Final = "$frozenset"


def _duration(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _duration_of(written: list[int]) -> timedelta:
    days, seconds, microseconds = written
    return timedelta(days, seconds, microseconds)


_TEXTS: Final[Mapping[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    datetime: ("$datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("$date", date.isoformat, date.fromisoformat),
    time: ("$time", time.isoformat, time.fromisoformat),
    timedelta: ("$timedelta", _duration, _duration_of),
    UUID: ("$uuid", str, UUID),
    Decimal: ("$decimal", str, Decimal),
}
"""Types whose values are one word: the key, how it is written, how it is read."""

_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    _BYTES: lambda text: b64decode(text, validate=True),
    _FLOAT: float,
    **{key: read for key, _, read in _TEXTS.values()},
}
_MANY: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
}
_HASHABLE: Final = frozenset({*_READ, _TUPLE, _FROZENSET})


def is_object(written: Any) -> bool:
    """Tell whether what was written is read as a `dict`."""
    if type(written) is not dict:
        return False
    return len(written) != 1 or next(iter(written))[:1] != "$" or _DICT in written


class ValueWriter:
    """Writes the values of one message or answer, whatever types they are of.

    Attributes:
        is_exact: Whether all that was written is read back as it was.
        lost: What was left out, or written as words, and where it stood; the first of them.
    """

    def __init__(self) -> None:
        self.is_exact = True
        self.lost: list[str] = []
        self._left = VALUES_MAX

    def lose(self, where: Where, what: str) -> None:
        """Note that a value is not written as it is."""
        self.is_exact = False
        if len(self.lost) < LOST_NAMED_MAX:
            self.lost.append(f"{_named(where)}: {what}")

    def value(  # noqa: PLR0911  one return per kind of value
        self, value: Any, where: Where, depth: int = 0, *, shown: bool = False
    ) -> Any:
        """Write a value that stands at `where`.

        One of a type that has no JSON is `LEFT_OUT`; if it is `shown` to a model, it is put in
        words.
        """
        kind = type(value)
        if kind is str:
            return value if value.isascii() else self._text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -_INT_MAX < value < _INT_MAX else self._vast(value, where)
        if kind is float:
            return value if math.isfinite(value) else {_FLOAT: repr(value)}
        if depth < DEPTH_MAX and self._left > 0:
            if kind is dict:
                return self._dict(value, where, depth, shown=shown)
            if kind is list:
                return self._list(value, where, depth, shown=shown)
            try:
                return self._other(value, where, depth, shown=shown)
            # Whatever a foreign type does when it is read.
            except Exception as error:  # noqa: BLE001
                return self.words(value, where, type(error).__name__, shown=shown)
        return self.words(value, where, "nested too deeply or too large", shown=shown)

    def words(self, value: object, where: Where, why: str = "", *, shown: bool) -> Any:
        """Write a value as words, if it is `shown`, and else leave it out."""
        self.lose(where, f"{type(value).__name__}{f' ({why})' if why else ''}")
        if not shown:
            return LEFT_OUT
        if why:
            return f"[not kept: {type(value).__name__}]"
        try:
            return well_formed(str(value)[:_WORDS_CHARS_MAX])
        except Exception:  # noqa: BLE001  a foreign type's own way to write itself
            return type(value).__name__

    def _text(self, text: str) -> str:
        formed = well_formed(text)
        if formed is not text:
            self.is_exact = False
        return formed

    def _vast(self, number: int, where: Where) -> str:
        self.lose(where, "an integer of more than 4,300 digits")
        return f"about {'-' if number < 0 else ''}2**{abs(number).bit_length()}"

    def _dict(self, value: dict[Any, Any], where: Where, depth: int, *, shown: bool) -> Any:
        self._left -= 5 + len(value)
        if not all(type(key) is str for key in value):
            return self._pairs(value, where, depth, shown=shown)
        made: dict[str, Any] = {}
        # What looks like an object of ours is written as pairs.
        below = depth + (3 if any(key[:1] == "$" for key in value) else 1)
        for key, one in value.items():
            written = self.value(one, (where, key), below, shown=shown)
            if written is LEFT_OUT:
                continue
            name = key if key.isascii() else self._text(key)
            if name in made:
                self.lose(where, "two keys that differ in halves of characters alone")
            made[name] = written
        return _as_it_stands(made)

    def _pairs(self, value: dict[Any, Any], where: Where, depth: int, *, shown: bool) -> Any:
        pairs: list[list[Any]] = []
        for key, one in value.items():
            name = self.value(key, where, depth + 3, shown=True)
            if not _is_key(name):
                name = self.words(key, where, shown=True)
            written = self.value(one, (where, name), depth + 3, shown=shown)
            if written is not LEFT_OUT:
                pairs.append([name, written])
        if all(type(name) is str for name, _ in pairs):
            if len(made := dict(pairs)) < len(pairs):
                self.lose(where, "two keys that are written alike")
            return _as_it_stands(made)
        return {_DICT: pairs}

    def _list(self, value: Any, where: Where, depth: int, *, shown: bool) -> list[Any]:
        self._left -= 5 + len(value)
        made = [
            self.value(one, (where, index), depth + 1, shown=shown)
            for index, one in enumerate(value)
        ]
        return [one for one in made if one is not LEFT_OUT]

    def _other(  # noqa: C901, PLR0911, PLR0912  one way for each kind of value
        self, value: Any, where: Where, depth: int, *, shown: bool
    ) -> Any:
        kind = type(value)
        if kind is bytes:
            return {_BYTES: b64encode(value).decode("ascii")}
        if kind is tuple:
            return {_TUPLE: self._list(value, where, depth + 1, shown=shown)}
        if kind is set or kind is frozenset:
            made = self._list(value, where, depth + 1, shown=shown)
            # In one order, whatever the process: what is asked is told by a digest.
            made.sort(key=lambda one: json.dumps(one, sort_keys=True))
            if all(map(_is_key, made)):
                return {_SET if kind is set else _FROZENSET: made}
            self.is_exact = False
            return made
        if kind in _TEXTS and not _has_foreign_zone(value):
            key, write, _ = _TEXTS[kind]
            return {key: write(value)}
        self.is_exact = False  # of all below the nearest is written
        if isinstance(value, Enum):
            return self.value(value.value, where, depth, shown=shown)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            return self.value(int.__int__(value), where, depth)
        if isinstance(value, float):
            return self.value(float.__float__(value), where, depth)
        for known, (key, write, read) in _TEXTS.items():
            if isinstance(value, known):
                read(made := write(value))  # pandas' `NaT` is a time that is none
                return {key: made}
        if isinstance(value, bytes | bytearray | memoryview):
            return {_BYTES: b64encode(value).decode("ascii")}
        if isinstance(value, PurePath):
            return self._text(str(value))
        if isinstance(value, BaseModel):
            held = {**value.__dict__, **(value.__pydantic_extra__ or {})}
            return self._dict(held, where, depth, shown=shown)
        if is_dataclass(value) and not isinstance(value, type):
            held = {one.name: getattr(value, one.name) for one in fields(value)}
            return self._dict(held, where, depth, shown=shown)
        if isinstance(value, Mapping):
            return self._dict(dict(value), where, depth, shown=shown)
        if isinstance(value, list | tuple | AbstractSet | deque):
            return self._list(value, where, depth, shown=shown)
        if callable(as_list := getattr(kind, "tolist", None)):  # NumPy's, and all who speak it
            return self.value(as_list(value), where, depth + 1, shown=shown)
        return self.words(value, where, shown=shown)


class ValueReader:
    """Reads what a `ValueWriter` has written. Raises `ValueError` for what it has not."""

    def value(self, written: Any) -> Any:
        """Read a value."""
        kind = type(written)
        if kind is list:
            return [self.value(one) for one in written]
        if kind is not dict:
            return written
        if is_object(written) and not (len(written) == 1 and _DICT in written):
            return {key: self.value(one) for key, one in written.items()}
        ((key, held),) = written.items()
        try:
            return self.tagged(key, held)
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            message = f"{key!r} holds what it cannot: {type(error).__name__}: {error}"
            raise ValueError(message) from error

    def tagged(self, key: str, held: Any) -> Any:
        """Read what stands in an object under the name of its type."""
        if key == _DICT:
            return {self.value(name): self.value(one) for name, one in held}
        if (of_many := _MANY.get(key)) is not None and type(held) is list:
            return of_many([self.value(one) for one in held])
        if (of_one := _READ.get(key)) is not None:
            return of_one(held)
        message = "no type of this name is known: a newer version may have written it"
        raise ValueError(message)


def _named(where: Where) -> str:
    keys: list[str] = []
    while isinstance(where, tuple):
        where, key = where
        keys.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    return "".join((where, *reversed(keys)))[:_WORDS_CHARS_MAX]


def _as_it_stands(made: dict[str, Any]) -> dict[str, Any]:
    """Give an object as it is written: as pairs, if it would be taken for one of ours."""
    return made if is_object(made) and _DICT not in made else {_DICT: [*map(list, made.items())]}


def _is_key(written: Any) -> bool:
    """Tell whether what was written is read as a value that sets and keys may be."""
    if type(written) is list or is_object(written):
        return False
    if type(written) is not dict:
        return True
    ((key, held),) = written.items()
    return key in _HASHABLE and (key not in _MANY or all(map(_is_key, held)))


def _has_foreign_zone(value: Any) -> bool:
    """Tell whether a time's zone is more than a distance to UTC, which is what is written of it."""
    zone = getattr(value, "tzinfo", None)
    return zone is not None and type(zone) is not timezone
