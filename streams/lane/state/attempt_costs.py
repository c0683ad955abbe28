"""What the attempts of unfinished runs count at, so that whoever goes on with a run knows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from millstream.schemas.base import NO_USAGE, Event, Micros, Usage
from millstream.schemas.events import AgentResult, AttemptStarted, CostRecorded
from millstream.streams.wire.keys import RequestKey, request_key


@dataclass(slots=True)
class Bill:
    """A run's newest attempt and, once it is settled, what it cost.

    The attempts before it are settled: what they count at stands on the mark of this one.
    """

    started: AttemptStarted
    cost: CostRecorded | None = None

    @property
    def spent_micros(self) -> Micros:
        """What the settled attempts cost."""
        return self.started.spent_micros + (self.cost.cost_micros if self.cost else 0)

    @property
    def spent_usage(self) -> Usage:
        """What the settled attempts used."""
        return self.started.spent_usage + (self.cost.usage if self.cost else NO_USAGE)


@dataclass(slots=True)
class Bills:
    """The bills of a lane's unfinished runs, by tenant, user and request id: a fold.

    Runs that cost nothing have none. Attempts come before what settles them.
    """

    open: dict[RequestKey, Bill] = field(default_factory=dict)

    def lost(self, key: RequestKey) -> int:
        """Count a run's attempts that ended with their owners; none may be under way."""
        bill = self.open.get(key)
        return 0 if bill is None else bill.started.lost + (bill.cost is None)

    def fold(self, event: Event) -> None:
        """Take in a committed event."""
        match event:
            case AttemptStarted():
                self.open[request_key(event)] = Bill(event)
            case CostRecorded():
                bill = self.open.get(request_key(event))
                # That of an earlier attempt is counted on the newest one's mark.
                if bill is not None and bill.started.attempt == event.attempt:
                    bill.cost = event
            case AgentResult():
                self.open.pop(request_key(event), None)
            case _:
                pass
