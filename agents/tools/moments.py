"""When it was, as a run's middlewares were told: the same in each attempt, and at each worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Moments"]


@dataclass(slots=True)
class Moments:
    """The times that were told in a run, in milliseconds since the epoch.

    One for each answer of the model, and one before the first: read again behind the same answer,
    it is the same. What was told since the last record of the journal goes with the next one, so
    that nothing stands there that depends on a time which does not.
    """

    _times: dict[int, int] = field(default_factory=dict)
    _unwritten: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Moments:
        """Give the same ones, to be added to by themselves."""
        return Moments(self._times.copy(), self._unwritten.copy())

    def at(self, position: int, now_ms: int) -> int:
        """Give the time at a position; where none was told yet, it is `now_ms` from now on."""
        told = self._times.get(position)
        if told is None:
            # Workers' clocks differ, and time does not run backwards in a run.
            before = (at_ms for at, at_ms in self._times.items() if at < position)
            told = self._times[position] = self._unwritten[position] = max((now_ms, *before))
        return told

    def take(self, recorded: Mapping[str, int]) -> None:
        """Take in what a journal tells."""
        self._times.update((int(position), at_ms) for position, at_ms in recorded.items())

    def to_write(self) -> dict[str, int] | None:
        """Give what is to be written with the next record, once; `None`: nothing."""
        told = {str(position): at_ms for position, at_ms in self._unwritten.items()}
        self._unwritten.clear()
        return told or None
