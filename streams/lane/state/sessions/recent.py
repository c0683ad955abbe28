"""The values of one kind that a lane has in memory: those used last, and what is not committed."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, Generic, TypeVar

from millstream.streams.wire.keys import SessionKey

__all__ = ["SESSIONS_IN_MEMORY", "Recent"]

ValueT = TypeVar("ValueT")

SESSIONS_IN_MEMORY: Final = 1_000
"""Sessions of one lane whose head, and whose state, stay in memory when nobody uses them."""


class Recent(Generic[ValueT]):
    """A session's value by its key, the one used least recently first.

    What is on its way to the log stays until it is committed, however many there are: nobody could
    look it up.
    """

    def __init__(self, most: int = SESSIONS_IN_MEMORY) -> None:
        self._most = most
        self._values: OrderedDict[SessionKey, ValueT] = OrderedDict()
        self._ahead: dict[SessionKey, ValueT] = {}
        self._held: Counter[SessionKey] = Counter()

    def __contains__(self, key: object) -> bool:
        """Tell whether a session's value is in memory."""
        return key in self._values

    def __len__(self) -> int:
        """Give how many values are in memory."""
        return len(self._values)

    def __iter__(self) -> Iterator[SessionKey]:
        """Give the sessions, the one used least recently first."""
        return iter(self._values)

    def get(self, key: SessionKey) -> ValueT | None:
        """Give a session's value, `None` where it is not in memory."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: SessionKey, value: ValueT, *, ahead: bool = False) -> None:
        """Take in a value; `ahead`: it is not committed yet, and `committed` will tell.

        One that is committed only now takes the place of none that is ahead of it.
        """
        if not ahead and self._ahead.get(key, value) is not value:
            return
        self._values[key] = value
        self._values.move_to_end(key)
        if ahead:
            self._ahead[key] = value
        self._let_go()

    def committed(self, key: SessionKey, value: ValueT) -> None:
        """Hear that a value stands on the log."""
        if self._ahead.get(key) is value:
            del self._ahead[key]
            self._let_go()

    def drop(self, key: SessionKey) -> None:
        """Forget a session's value."""
        self._values.pop(key, None)
        self._ahead.pop(key, None)

    def settled(self) -> list[ValueT]:
        """Give the values that are committed, the one used least recently first."""
        return [value for key, value in self._values.items() if key not in self._ahead]

    def values(self) -> list[ValueT]:
        """Give all values, the one used least recently first."""
        return list(self._values.values())

    @contextmanager
    def held(self, keys: Iterable[SessionKey]) -> Iterator[None]:
        """Keep what there is of these, and what comes, until the end."""
        held = Counter(keys)
        self._held += held
        try:
            yield
        finally:
            self._held -= held
            self._let_go()

    def _let_go(self) -> None:
        if len(self._values) - len(self._ahead) <= self._most:
            return
        # What is held does not count: else what comes beside it would be gone at once.
        used = len(self._ahead) + sum(
            key in self._values and key not in self._ahead for key in self._held
        )
        idle = (key for key in self._values if key not in self._ahead and key not in self._held)
        for key in list(islice(idle, max(0, len(self._values) - used - self._most))):
            del self._values[key]
