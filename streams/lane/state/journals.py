"""Where the journals of unfinished runs stand: a fold that holds places, and nothing that was said.

A record costs 16 bytes here. What a journal holds is read when its run goes on
(`streams/lane/output/journal_log.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
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
    known: more than 0 where those before it were not read.
    """

    steps: int = 0
    begins_at: int = 0
    offsets: array[int] = field(default_factory=lambda: array("q"))

    @property
    def begins_from(self) -> int | None:
        """Where its first record stands, `None` where that is not known."""
        return self.offsets[0] if self.offsets and not self.begins_at else None


@dataclass(slots=True)
class Journals:
    """The journals of a lane's unfinished runs, by tenant, user and request id: a fold.

    A step comes before the result of its run.
    """

    open: dict[RequestKey, OpenJournal] = field(default_factory=dict)

    def as_fold(self, *, is_kept: bool = True) -> Fold:
        """Give what the list is told of it; a stage that runs no agents keeps none."""
        # All that come before in the list's one order: a step is read before its run's result.
        topics = (DECISIONS, ATTEMPTS, RESERVATIONS, COSTS, JOURNAL, RESULTS)
        return Fold(
            name="journals",
            topics=tuple(Source(spec, Begin.WINDOW) for spec in topics),
            fold={JournalStep: self._step, AgentResult: self._end} if is_kept else {},
            place={JournalStep: self._place} if is_kept else {},
            entries=("journals",),
            state=lambda: {"journals": self._rows(self.open)},
            load=self._load,
            canonical=lambda: self._rows(sorted(self.open)),
        )

    def _step(self, step: JournalStep) -> None:
        key = request_key(step)
        journal = self.open.get(key)
        if journal is None:
            journal = self.open[key] = OpenJournal(begins_at=step.step)
        journal.steps = max(journal.steps, step.step + 1)

    def _place(self, step: JournalStep, offset: int) -> None:
        self.open[request_key(step)].offsets.append(offset)

    def _end(self, result: AgentResult) -> None:
        self.open.pop(request_key(result), None)

    def _rows(self, keys: Iterable[RequestKey]) -> list[Any]:
        return [
            (*key, one.steps, one.begins_at, _differences(one.offsets))
            for key in keys
            for one in (self.open[key],)
        ]

    def _load(self, body: SnapshotBody) -> None:
        for tenant, user_id, request_id, steps, begins_at, differences in body.entries["journals"]:
            offsets, at = array("q"), 0
            for difference in differences:
                at += difference
                offsets.append(at)
            self.open[(tenant, user_id, request_id)] = OpenJournal(steps, begins_at, offsets)


def _differences(offsets: array[int]) -> list[int]:
    return [offset - before for before, offset in zip((0, *offsets), offsets, strict=False)]
