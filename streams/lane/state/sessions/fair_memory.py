"""What is remembered by user and name up to a number: beyond it, whoever has most forgets first.

As with ids (`ids/shares.py`): a flood takes the place of its own, so that what one user has said is
not forgotten for another one's commands. The like elsewhere, where the oldest goes whoever's it is:
noxdafox/rabbitmq-message-deduplication#3, johanhaleby/occurrent#422.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from itertools import count
from typing import Generic, TypeVar

from millstream.schemas.base import UserKey

__all__ = ["FairMemory", "NameKey"]

NameKey = tuple[str, str, str]
"""Tenant, user, and the name of what is remembered."""

ValueT = TypeVar("ValueT")


class FairMemory(Generic[ValueT]):
    """Remembers up to `most` values in the order in which they were put last.

    Beyond that the oldest goes of the user who has most; of several, of whom that is the oldest.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[NameKey, ValueT] = OrderedDict()
        self._of: defaultdict[UserKey, OrderedDict[NameKey, int]] = defaultdict(OrderedDict)
        self._numbers = count()

    def get(self, key: NameKey) -> ValueT | None:
        """Give what is remembered under a key."""
        return self._values.get(key)

    def put(self, key: NameKey, value: ValueT) -> None:
        """Remember a value, as the newest."""
        self.forget(key)
        self._values[key] = value
        self._of[key[:2]][key] = next(self._numbers)
        while len(self._values) > self._most:
            self.forget(self._next_to_go())

    def forget(self, key: NameKey) -> None:
        """Forget what is remembered under a key."""
        if self._values.pop(key, None) is None:
            return
        of_user = self._of[key[:2]]
        del of_user[key]
        if not of_user:
            del self._of[key[:2]]

    def items(self) -> Iterable[tuple[NameKey, ValueT]]:
        """Give all, the oldest first."""
        return self._values.items()

    def _next_to_go(self) -> NameKey:
        most = max(map(len, self._of.values()))
        oldest = (next(iter(one.items())) for one in self._of.values() if len(one) == most)
        return min(oldest, key=lambda one: one[1])[0]
