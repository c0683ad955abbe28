"""Where the journals of unfinished runs stand: a fold that holds places, and nothing that was said.

A record costs 16 bytes here. What a journal holds is read when its run goes on
(`streams/lane/output/journal_log.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from millstream.schemas.events import AgentResult
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.topics import ATTEMPTS, COSTS, DECISIONS, JOURNAL, RESERVATIONS, RESULTS
from millstream.streams.lane.state.folds import Begin, Fold, SnapshotBody, Source
from millstream.streams.wire.keys import RequestKey, request_key

__all__ = ["Journals", "OpenJournal"]


@dataclass(slots=True)
class OpenJournal:
    """Where the records of one run's journal stand, the oldest first.

    `steps` is the number of its next step. `begins_at` is the number of the first one that is
    known: more than 0 where those before it were not read. `began_ms` is when that was written. Of
    a journal that was written anew, it is the copies that are known, and what came behind them.
    """

    steps: int = 0
    begins_at: int = 0
    offsets: array[int] = field(default_factory=lambda: array("q"))
    began_ms: int = 0

    def take(self, step: JournalStep) -> None:
        """Take in a record, in the order of the log; its place is to be added behind it."""
        is_copy = step.renewed_ms is not None
        if not self.offsets or (is_copy and not step.step and not step.part):
            self.begins_at = step.step + (step.part > 0)
            self.offsets = array("q")
            self.began_ms = step.at_ms if step.renewed_ms is None else step.renewed_ms
        self.steps = max(self.steps, step.step + 1)

    @property
    def begins_from(self) -> int | None:
        """Where its first record stands, `None` where that is not known."""
        return self.offsets[0] if self.offsets and not self.begins_at else None


@dataclass(slots=True)
class Journals:
    """The journals of a lane's unfinished runs, by tenant, user and request id: a fold.

    A step comes before the result of its run, but for a restore between `out_of_order` and
    `in_order`: clocks of brokers differ.
    """

    open: dict[RequestKey, OpenJournal] = field(default_factory=dict)
    _is_over: Callable[[RequestKey], bool] | None = None

    def out_of_order(self, is_over: Callable[[RequestKey], bool]) -> None:
        """Pass over the steps of runs that are over; `is_over` tells."""
        self._is_over = is_over

    def in_order(self) -> None:
        """Take every step for one of a run that is not over."""
        self._is_over = None

    def as_fold(self, *, is_kept: bool = True) -> Fold:
        """Give what the list is told of it; a stage that runs no agents keeps none."""
        # All that come before in the list's one order: a step is read before its run's result.
        topics = (DECISIONS, ATTEMPTS, RESERVATIONS, COSTS, JOURNAL, RESULTS)
        return Fold(
            name="journals",
            topics=tuple(Source(spec, Begin.WINDOW) for spec in topics),
            fold={JournalStep: self._step, AgentResult: self._end} if is_kept else {},
            place={JournalStep: self._place} if is_kept else {},
            entries=("open_journals",),
            state=lambda: {"open_journals": self._rows(self.open)},
            load=self._load,
            canonical=lambda: self._rows(sorted(self.open)),
        )

    def _step(self, step: JournalStep) -> None:
        key = request_key(step)
        if self._is_over is None or not self._is_over(key):
            self.open.setdefault(key, OpenJournal()).take(step)

    def _place(self, step: JournalStep, offset: int) -> None:
        if (journal := self.open.get(request_key(step))) is not None:
            journal.offsets.append(offset)

    def _end(self, result: AgentResult) -> None:
        self.open.pop(request_key(result), None)

    def _rows(self, keys: Iterable[RequestKey]) -> list[Any]:
        return [
            (*key, one.steps, one.begins_at, one.began_ms, _differences(one.offsets))
            for key in keys
            for one in (self.open[key],)
        ]

    def _load(self, body: SnapshotBody) -> None:
        for tenant, user_id, request_id, *numbers, differences in body.entries["open_journals"]:
            steps, begins_at, began_ms = numbers
            offsets, at = array("q"), 0
            for difference in differences:
                at += difference
                offsets.append(at)
            key = (tenant, user_id, request_id)
            self.open[key] = OpenJournal(steps, begins_at, offsets, began_ms)


def _differences(offsets: array[int]) -> list[int]:
    return [offset - before for before, offset in zip((0, *offsets), offsets, strict=False)]
