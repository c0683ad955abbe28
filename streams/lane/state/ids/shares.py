"""Which ids are kept where there are too many: each user's newest, and of all users as many.

Max-min fairness, as network links are shared (Bertsekas and Gallager, *Data Networks*, 6.5.2): what
is over is taken from whoever has most, down to a level; whoever has less keeps all. So a flood
takes the place of its own ids only. With more ids the level only falls: what is forgotten once is
not wanted later, in whichever order they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from millstream.streams.lane.state.ids.digests import owner_of

__all__ = ["Cut", "Shares", "kept", "level_of"]

_FEW: Final = 16
"""Whoever has no more is no flood. With more users than have room so, the lowest ids go."""

_USERS_MIN: Final = 32


class Shares:
    """Counts how many ids each user has, to say what all of them may keep."""

    def __init__(self, ids_max: int) -> None:
        self._ids_max = ids_max
        self._counts: Counter[int] = Counter()

    def count(self, ids: Iterable[int]) -> None:
        """Count ids, each once."""
        self._counts.update(map(owner_of, ids))

    def cut(self) -> Cut:
        """Give what decides which are forgotten, having counted all."""
        return Cut(self._counts, self._ids_max)


class Cut:
    """What is forgotten of users who have more than the level. First it is shown all their ids.

    Where some may have one more, it is those of whom that is the newest. Of a user's ids those with
    the lowest values go: what did not run, then the oldest. With too many users for a level, those
    with the lowest values go of all. Values that are alike go together.
    """

    def __init__(self, counts: Mapping[int, int], ids_max: int) -> None:
        self._ids_max = ids_max
        self._level = level_of(counts.values(), ids_max)
        at_level = sum(min(count, self._level) for count in counts.values())
        self._one_more = max(0, ids_max - at_level)
        self._is_crowded = at_level > ids_max
        self._values: dict[int, list[int]] = {
            user: [] for user, count in counts.items() if count > self._level
        }
        self._others: list[int] = []
        self._up_to: dict[int, int] = {}
        self._all_up_to = -1

    def look(self, ids: Iterable[tuple[int, int]]) -> None:
        """Look at ids and their values, once at each."""
        for key, value in ids:
            if (values := self._values.get(owner_of(key))) is not None:
                values.append(value)
            elif self._is_crowded:
                self._others.append(value)

    def decide(self) -> None:
        """Decide, having seen all."""
        more = {user: values for user, values in self._values.items() if len(values) > self._level}
        for values in more.values():
            values.sort()
        by_newest = sorted(more, key=lambda user: more[user][-self._level - 1], reverse=True)
        for place, user in enumerate(by_newest):
            stays = self._level + (place < self._one_more)
            if len(values := more[user]) > stays:
                self._up_to[user] = values[-stays - 1]
        if self._is_crowded:
            self._decide_of_all()
        self._values.clear()
        self._others.clear()

    def _decide_of_all(self) -> None:
        left = self._others
        for user, values in self._values.items():
            up_to = self._up_to.get(user, -1)
            left.extend(value for value in values if value > up_to)
        if len(left) > self._ids_max:
            left.sort()
            self._all_up_to = left[-self._ids_max - 1]

    def goes(self, key: int, value: int) -> bool:
        """Tell whether an id is forgotten."""
        return value <= self._all_up_to or value <= self._up_to.get(owner_of(key), -1)


def level_of(counts: Collection[int], ids_max: int) -> int:
    """Give how many ids a user may keep, so that all together have at most `ids_max`."""
    few = max(1, min(_FEW, ids_max // _USERS_MIN))
    users = len(counts)
    room = ids_max
    for count, alike in sorted(Counter(counts).items()):
        if count * users > room:
            return max(few, room // users)
        users -= alike
        room -= count * alike
    return max(counts, default=few)


def kept(ids: Mapping[int, int], ids_max: int) -> dict[int, int]:
    """Give those of ids, with their values, that count where at most `ids_max` do."""
    if len(ids) <= ids_max:
        return dict(ids)
    shares = Shares(ids_max)
    shares.count(ids)
    cut = shares.cut()
    cut.look(ids.items())
    cut.decide()
    return {key: value for key, value in ids.items() if not cut.goes(key, value)}
