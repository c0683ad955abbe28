"""What the attempts of unfinished runs count at, so that whoever goes on with a run knows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from millstream.middleware.base import AttemptUsage
from millstream.middleware.pipeline import MiddlewarePipeline
from millstream.schemas.base import NO_USAGE, CallUsage, Event, Micros, Usage, saturated
from millstream.schemas.events import AgentResult, AttemptStarted, CostRecorded, ResolvedRequest
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.runs.call_usage import bounded
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.topics import ATTEMPTS, COSTS, JOURNAL, RESERVATIONS, RESULTS
from millstream.streams.lane.state.folds import Begin, Fold, Handler, SnapshotBody, Source
from millstream.streams.wire.keys import RequestKey, request_key

_USED: Final = TypeAdapter[tuple[CallUsage, ...] | None](tuple[CallUsage, ...] | None)

_OfAttempt = CallReserved | CostRecorded | JournalStep

_NOT_JOURNALLED: Final = "its worker was lost before it was journalled: as was reserved behind it"
_UNDER_WAY: Final = "its worker was lost, and it may have been under way: the most that it can be"


@dataclass(slots=True)
class OpenAttempt:
    """A run's newest attempt and, once it is settled, what its calls cost, by their numbers.

    The attempts before it are settled: what they count at stands on the mark of this one. `used` is
    what its calls used that it journalled, `None` while it has journalled none, and `newest` the
    kind of the last step. `reserved` is what it reserved last for a call behind its first.
    """

    started: AttemptStarted
    costs: dict[int, CostRecorded] = field(default_factory=dict)
    used: tuple[CallUsage, ...] | None = None
    reserved: CallReserved | None = None
    newest: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether it left nothing behind, if it is over: neither a step of a journal nor a cost."""
        return not self.costs and self.used is None

    def left_behind(self) -> AttemptUsage:
        """Give what it used, if it ended with its owner: as far as is known."""
        reserved = self.reserved
        if self.used is None:
            return AttemptUsage.lost(self.started if reserved is None else self._raised(reserved))
        calls = (*self.used, *self._over_unjournalled())
        if self._may_have_asked:
            most, model = _one_of(self.started), None
            if reserved is not None:
                most = reserved.usage_max
                model = None if reserved.model == self.started.model else reserved.model
            calls = (*calls, CallUsage(most, model, _UNDER_WAY))
        return AttemptUsage(
            attempt=self.started.attempt,
            model=self.started.model,
            template=self.started.template,
            usage=sum((one.usage for one in calls), NO_USAGE),
            started=self.started,
            calls=calls,
        )

    @property
    def _may_have_asked(self) -> bool:
        """Whether a model call may have been under way that is not on the journal."""
        if self.started.calls_max != 1:  # where calls are not reserved one by one
            return self.newest != "intent"
        if self.reserved is None and self.newest in {"answered", "intent"}:
            return False
        return self._journalled <= (0 if self.reserved is None else self.reserved.calls)

    @property
    def _journalled(self) -> int:
        return sum(one.calls for one in self.used or ())

    def _over_unjournalled(self) -> tuple[CallUsage, ...]:
        """Give what calls used that were over as the newest one was reserved, and have no step.

        As where an answer announced calls and made none, so that the model was asked again at once.
        """
        reserved = self.reserved
        if reserved is None or (missing := reserved.calls - self._journalled) <= 0:
            return ()
        known = sum((one.usage for one in self.used or ()), NO_USAGE)
        counts = {
            name: max(0, getattr(reserved.used, name) - getattr(known, name))
            for name in Usage.model_fields
        }
        return (CallUsage(Usage(**counts), None, _NOT_JOURNALLED, calls=missing),)

    def _raised(self, reserved: CallReserved) -> AttemptStarted:
        """Give the attempt's mark as if it had reserved all that was reserved since."""
        micros = saturated(reserved.reserved_micros - self.started.spent_micros)
        return self.started.model_copy(
            update={"usage_max": reserved.used + reserved.usage_max, "reserved_micros": micros}
        )

    @property
    def spent_micros(self) -> Micros:
        """What the settled attempts cost."""
        micros = sum(cost.cost_micros for cost in self.costs.values())
        return saturated(self.started.spent_micros + micros)

    @property
    def spent_usage(self) -> Usage:
        """What the settled attempts used."""
        return sum((cost.usage for cost in self.costs.values()), self.started.spent_usage)


@dataclass(slots=True)
class OpenAttempts:
    """The bills of a lane's unfinished runs, by tenant, user and request id: a fold.

    Runs that cost nothing have none. Attempts come before what settles them, but for a restore
    between `out_of_order` and `in_order`: clocks of brokers differ.
    """

    open: dict[RequestKey, OpenAttempt] = field(default_factory=dict)
    _is_over: Callable[[RequestKey], bool] | None = None
    _early: dict[RequestKey, list[_OfAttempt]] = field(default_factory=dict)

    def out_of_order(self, is_over: Callable[[RequestKey], bool]) -> None:
        """Keep what comes before its attempt, of runs that are not over; `is_over` tells."""
        self._is_over = is_over

    def in_order(self) -> None:
        """Drop what belongs to no attempt."""
        self._is_over = None
        self._early.clear()

    def lost(self, key: RequestKey) -> int:
        """Count a run's attempts that ended with their owners; none may be under way."""
        bill = self.open.get(key)
        return 0 if bill is None else bill.started.lost + bill.is_lost

    def lost_unjournalled(self, key: RequestKey) -> bool:
        """Tell whether a lost attempt may have made calls that no journal tells of."""
        bill = self.open.get(key)
        return bill is not None and not bill.costs and not bill.started.journals

    def as_fold(self, *, is_kept: bool = True) -> Fold:
        """Give what the list is told of it; a stage that runs no agents keeps none."""
        fold: dict[type[Event], Handler] = {
            AttemptStarted: self._start,
            CallReserved: self._take,
            CostRecorded: self._take,
            JournalStep: self._take,
            AgentResult: self._end,
        }
        return Fold(
            name="attempts",
            topics=tuple(
                Source(spec, Begin.WINDOW)
                for spec in (ATTEMPTS, RESERVATIONS, COSTS, JOURNAL, RESULTS)
            ),
            fold=fold if is_kept else {},
            entries=("attempt_bills",),
            state=lambda: {"attempt_bills": self._bills(self.open.values())},
            load=self._load,
            canonical=lambda: self._bills(self.open[key] for key in sorted(self.open)),
        )

    def _start(self, started: AttemptStarted) -> None:
        key = request_key(started)
        if self._is_over is not None and self._is_over(key):
            return
        self.open[key] = OpenAttempt(started)
        for one in self._early.pop(key, ()):
            if one.attempt >= started.attempt:
                self._take(one)

    def _take(self, one: _OfAttempt) -> None:
        """Take in what belongs to an attempt: its newest one, or else one that is settled."""
        key = request_key(one)
        bill = self.open.get(key)
        if bill is not None and bill.started.attempt == one.attempt:
            match one:
                case CallReserved():
                    if bill.reserved is None or bill.reserved.call < one.call:
                        bill.reserved = one
                case CostRecorded():
                    bill.costs[one.call] = one
                case JournalStep():
                    bill.used = bounded((*(bill.used or ()), *one.used))
                    bill.newest = one.kind
        # That of an earlier attempt is counted on the newest one's mark.
        elif self._is_over is None or self._is_over(key):
            return
        elif bill is None or bill.started.attempt < one.attempt:
            self._early.setdefault(key, []).append(one)

    def _end(self, result: AgentResult) -> None:
        key = request_key(result)
        self.open.pop(key, None)
        self._early.pop(key, None)

    @staticmethod
    def _bills(bills: Iterable[OpenAttempt]) -> tuple[tuple[Any, ...], ...]:
        return tuple(
            (
                one.started,
                one.reserved,
                one.newest,
                _USED.dump_python(one.used, mode="json", exclude_none=True),
                *one.costs.values(),
            )
            for one in bills
        )

    def _load(self, body: SnapshotBody) -> None:
        for event, reserved, newest, used, *costs in body.entries["attempt_bills"]:
            started = AttemptStarted.model_validate(event)
            self._start(started)
            if reserved is not None:
                self._take(CallReserved.model_validate(reserved))
            bill = self.open[request_key(started)]
            bill.used, bill.newest = _USED.validate_python(used), newest
            for cost in costs:
                self._take(CostRecorded.model_validate(cost))


@dataclass(frozen=True, slots=True)
class Charge:
    """Events that charge for what was not charged yet, and what all attempts count at."""

    events: list[Event]
    micros: Micros
    usage: Usage

    def on(self, result: AgentResult) -> AgentResult:
        """Give a result with the sum of what its run's attempts used and cost."""
        # Tuples compare what is one and the same without looking into it.
        if (result.cost_micros, result.usage) == (self.micros, self.usage):
            return result  # as most are of free models: a copy takes its time
        return result.model_copy(update={"cost_micros": self.micros, "usage": self.usage})


def cost_micros(
    pipeline: MiddlewarePipeline, started: AttemptStarted, calls: tuple[CallUsage, ...]
) -> Micros:
    """Give what calls of an attempt cost that are over: it is charged once the attempt is."""
    part = AttemptUsage(
        attempt=started.attempt,
        model=started.model,
        template=started.template,
        usage=sum((one.usage for one in calls), NO_USAGE),
        started=started,
        calls=calls,
    )
    made = pipeline.charges(started, part)
    return saturated(sum(one.cost_micros for one in made if isinstance(one, CostRecorded)))


def charge_attempts(
    bills: OpenAttempts,
    pipeline: MiddlewarePipeline,
    key: RequestKey,
    ended: tuple[ResolvedRequest, AttemptUsage] | None = None,
) -> Charge:
    """Charge what an attempt used and, if the one before it was lost, that at its worst case.

    `ended` is the attempt that has just ended, and whose it was. It is folded in the pipeline here:
    submit the events in the same tick.
    """
    bill = bills.open.get(key)
    micros, usage = (bill.spent_micros, bill.spent_usage) if bill else (0, NO_USAGE)
    events: list[Event] = []
    charging: list[tuple[ResolvedRequest | AttemptStarted, AttemptUsage]] = []
    if bill and not bill.costs and not (ended and ended[1].attempt == bill.started.attempt):
        # Its mark stands for it: the request may not be at hand.
        charging.append((bill.started, bill.left_behind()))
    if ended is not None:
        charging.append(ended)
    for request, one in charging:
        made = pipeline.charge(request, one)
        costs = [event for event in made if isinstance(event, CostRecorded)]
        micros = saturated(micros + sum(cost.cost_micros for cost in costs))
        usage = sum((cost.usage for cost in costs), usage) if costs else usage + one.usage
        events += made
    return Charge(events, micros, usage)


def _one_of(started: AttemptStarted) -> Usage:
    """Give the most that one call of an attempt can have used.

    A later call reads what the ones before it said: no call more than twice as much as on average.
    """
    calls, worst = max(started.calls_max, 1), started.usage_max
    return Usage(
        input_tokens=min(worst.input_tokens, -(-2 * worst.input_tokens // calls)),
        output_tokens=-(-worst.output_tokens // calls),
    )
