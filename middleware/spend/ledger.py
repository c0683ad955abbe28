"""What users spent and have reserved, per UTC day: a fold of what reserves, costs and results.

The day of a request is that of the broker's clock when it arrived, and all that the run costs falls
on it, however late it ends. Kept are the newest day seen and the one before; what arrives dated
earlier still counts on the older of the two. `CostRecorded` carries the request's time for that.

A decision reserves for the first call of the first attempt, each attempt for its first call, and
each further call for itself; in a cut chain, a decision and each attempt for all calls. Each of
these says what the run may have cost in all by then, and the newest holds, by its attempt and its
call. So a run holds that, less what its attempts are known to have cost:

    reserved = settled + released + held

Every run that was let in is on its day's account until it is over, also one that was free as it was
decided on: once it goes on, its model may have a price by a later policy, or be another of its own.

The records of a run may be folded in any order, and with other users' records between them:
whatever the result says was spent and no cost record has said yet stays held. So spend is never
seen too small, also by a stage that reads all of these topics. What comes before the decision that
it follows, since brokers' clocks differ, is kept until that comes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

from millstream.schemas.base import Micros, UserKey, saturated
from millstream.schemas.events import AgentResult, AttemptStarted, CostRecorded, Decision
from millstream.schemas.runs.reservations import CallReserved

DAY_MS = 86_400_000
DAYS_KEPT = 2

EARLY_RUNS_MAX = 1000
"""Of so many runs that nothing is reserved for it is kept what was told of them."""


@dataclass(slots=True)
class Reservation:
    """What a run may cost in all (once it is over: what it did), and what of that is settled.

    `attempt` and `call` number what said so last, -1 for the decision.
    """

    micros: Micros
    settled_micros: Micros = 0
    is_over: bool = False
    attempt: int = -1
    call: int = 0

    @property
    def held_micros(self) -> Micros:
        """What still counts against the cap beside what is spent."""
        return max(0, self.micros - self.settled_micros)


@dataclass(slots=True)
class DayAccount:
    """A user's day: what was spent, and what open runs hold, in all and each."""

    spent_micros: Micros = 0
    held_micros: Micros = 0
    open: dict[str, Reservation] = field(default_factory=dict)

    @property
    def taken_micros(self) -> Micros:
        """What counts against the cap."""
        return self.spent_micros + self.held_micros


@dataclass(slots=True)
class _Early:
    """What was told of a run of which no decision is known, to be told again once one is.

    `asked_ms` is the time of its request, `counted` what of its costs stands on days already.
    """

    asked_ms: int
    told: list[Callable[[], bool]] = field(default_factory=list)
    counted: list[tuple[int, Micros]] = field(default_factory=list)


class SpendLedger:
    """The accounts of one lane's users.

    Memory: two days of the users who spent or reserved in them, the runs that are open, and the
    newest `EARLY_RUNS_MAX` that have no reservation.
    """

    def __init__(self) -> None:
        self.days: dict[int, dict[UserKey, DayAccount]] = {}
        self._newest_day = 0
        self._early: OrderedDict[tuple[UserKey, str], _Early] = OrderedDict()

    def account(self, user: UserKey, at_ms: int) -> DayAccount:
        """Give the account that a request of this time counts on."""
        return self.days.get(self._kept(at_ms), {}).get(user) or DayAccount()

    def account_of_day(self, user: UserKey, at_ms: int) -> DayAccount:
        """Give the account of exactly this day, an empty one where it is not kept any more."""
        return self.days.get(at_ms // DAY_MS, {}).get(user) or DayAccount()

    def find(self, user: UserKey, request_id: str) -> tuple[DayAccount, Reservation] | None:
        """Give the reservation of an open run, and the account it stands on.

        `None` where it is over, where its day is not kept any more, and of one of another stage.
        """
        for users in self.days.values():
            day = users.get(user)
            if day is not None and request_id in day.open:
                return day, day.open[request_id]
        return None

    def reserve(self, decision: Decision) -> None:
        """Open a reservation, be it of nothing, and go on to its day."""
        number = self._kept(decision.at_ms)
        if number > self._newest_day:
            self._newest_day = number
            # Few days are ever there: this costs as many steps, once a day.
            for old in [each for each in self.days if each <= number - DAYS_KEPT]:
                del self.days[old]
        user = (decision.tenant, decision.user_id)
        day = self._day(number, user)
        day.open[decision.request_id] = Reservation(decision.reserved_micros)
        day.held_micros += decision.reserved_micros
        early = self._early.pop((user, decision.request_id), None)
        if early is not None and early.asked_ms == decision.at_ms:
            self._tell_again(user, early)

    def begin(self, started: AttemptStarted) -> None:
        """Make a run's reservation what an attempt needs on top of the earlier ones."""
        in_all_micros = saturated(started.spent_micros + started.reserved_micros)
        self._change(started, (started.attempt, 0), in_all_micros)

    def go_on(self, reserved: CallReserved) -> None:
        """Make a run's reservation what it needs with its next call."""
        self._change(reserved, (reserved.attempt, reserved.call), reserved.reserved_micros)

    def _change(
        self, event: AttemptStarted | CallReserved, number: tuple[int, int], micros: Micros
    ) -> None:
        user, request_id = (event.tenant, event.user_id), event.request_id
        again = partial(self._reserve_anew, user, request_id, number, micros)
        if not again():
            self._before_decision(user, request_id, event.at_ms).told.append(again)

    def _reserve_anew(
        self, user: UserKey, request_id: str, number: tuple[int, int], micros: Micros
    ) -> bool:
        found = self.find(user, request_id)
        if found is None:
            return False
        day, reservation = found
        if not reservation.is_over and number > (reservation.attempt, reservation.call):
            with _holding(day, reservation):
                reservation.micros = micros
                reservation.attempt, reservation.call = number
        return True

    def spend(self, cost: CostRecorded) -> None:
        """Count what an attempt cost, out of its run's reservation if it has one."""
        user, micros = (cost.tenant, cost.user_id), cost.cost_micros
        again = partial(self._settle, user, cost.request_id, micros)
        if again():
            return
        early = self._before_decision(user, cost.request_id, cost.at_ms)
        early.told.append(again)
        # A run without a reservation. Its day may be over: then nothing asks for it any more.
        number = cost.at_ms // DAY_MS
        if micros and number > self._newest_day - DAYS_KEPT:
            day = self._day(number, user)
            day.spent_micros = saturated(day.spent_micros + micros)
            early.counted.append((number, micros))

    def _settle(self, user: UserKey, request_id: str, micros: Micros) -> bool:
        found = self.find(user, request_id)
        if found is None:
            return False
        day, reservation = found
        day.spent_micros = saturated(day.spent_micros + micros)
        with _holding(day, reservation):
            reservation.settled_micros = saturated(reservation.settled_micros + micros)
        self._close(user, day, request_id)
        return True

    def release(self, result: AgentResult) -> None:
        """Let go of what a run that is over did not cost."""
        user, request_id = (result.tenant, result.user_id), result.request_id
        again = partial(self._end, user, request_id, result.cost_micros)
        if not again():
            self._before_decision(user, request_id, result.accepted_at_ms).told.append(again)

    def _end(self, user: UserKey, request_id: str, cost_micros: Micros) -> bool:
        found = self.find(user, request_id)
        if found is None:
            return False
        day, reservation = found
        if not (reservation.micros or reservation.settled_micros or cost_micros):
            self._forget(user, day, request_id)  # as of a free run
            return True
        with _holding(day, reservation):
            reservation.micros = cost_micros
            reservation.is_over = True
        self._close(user, day, request_id)
        return True

    def _before_decision(self, user: UserKey, request_id: str, asked_ms: int) -> _Early:
        key = (user, request_id)
        early = self._early.get(key)
        if early is None or early.asked_ms != asked_ms:
            early = self._early[key] = _Early(asked_ms)
            self._early.move_to_end(key)
            if len(self._early) > EARLY_RUNS_MAX:
                self._early.popitem(last=False)
        return early

    def _tell_again(self, user: UserKey, early: _Early) -> None:
        for number, micros in early.counted:
            account = self.days.get(number, {}).get(user)
            if account is not None:
                account.spent_micros -= micros
        for again in early.told:
            again()

    def state(self) -> Any:
        """Give the newest day, each user's days, and which reservations are open on them.

        In columns: a list for each of many users would take the garbage collector long.
        """
        accounts = [day for users in self.days.values() for day in users.values()]
        reserved = [each for day in accounts for each in day.open.values()]
        return {
            "newest_day": self._newest_day,
            "days": [number for number, users in self.days.items() for _ in users],
            "tenants": [tenant for users in self.days.values() for tenant, _ in users],
            "users": [user_id for users in self.days.values() for _, user_id in users],
            "spent_micros": [day.spent_micros for day in accounts],
            "counts": [len(day.open) for day in accounts],
            "requests": [request_id for day in accounts for request_id in day.open],
            "micros": [each.micros for each in reserved],
            "settled_micros": [each.settled_micros for each in reserved],
            "are_over": [each.is_over for each in reserved],
            "attempts": [each.attempt for each in reserved],
            "calls": [each.call for each in reserved],
        }

    def canonical(self) -> Any:
        """Give the newest day and, in order, each account on which anything stands."""
        return {
            "newest_day": self._newest_day,
            "accounts": [
                [number, user, day.spent_micros, _canonical(day.open)]
                for number, users in sorted(self.days.items())
                for user, day in sorted(users.items(), key=itemgetter(0))
                if day.spent_micros or day.open
            ],
        }

    def load(self, state: Any) -> None:
        """Take in what `state` gave, through JSON."""
        self._newest_day = state["newest_day"]
        users = zip(state["tenants"], state["users"], strict=True)
        accounts = [self._day(day, user) for day, user in zip(state["days"], users, strict=True)]
        columns = ("requests", "micros", "settled_micros", "are_over", "attempts", "calls")
        reserved = zip(*(state[column] for column in columns), strict=True)
        amounts = zip(state["spent_micros"], state["counts"], strict=True)
        for account, (spent_micros, count) in zip(accounts, amounts, strict=True):
            account.spent_micros = spent_micros
            for request_id, *values in islice(reserved, count):
                account.open[request_id] = Reservation(*values)
            account.held_micros = sum(each.held_micros for each in account.open.values())

    def _close(self, user: UserKey, day: DayAccount, request_id: str) -> None:
        reservation = day.open[request_id]
        if reservation.is_over and not reservation.held_micros:
            self._forget(user, day, request_id)

    def _forget(self, user: UserKey, day: DayAccount, request_id: str) -> None:
        del day.open[request_id]
        if day.open or day.spent_micros:
            return
        # Of users whose runs are free nothing is kept.
        for users in self.days.values():
            if users.get(user) is day:
                del users[user]

    def _kept(self, at_ms: int) -> int:
        return max(at_ms // DAY_MS, self._newest_day - DAYS_KEPT + 1)

    def _day(self, number: int, user: UserKey) -> DayAccount:
        users = self.days.setdefault(number, {})
        account = users.get(user)
        if account is None:
            account = users[user] = DayAccount()
        return account


def _canonical(reservations: dict[str, Reservation]) -> Any:
    return sorted(
        (request_id, one.micros, one.settled_micros, one.is_over, one.attempt, one.call)
        for request_id, one in reservations.items()
    )


@contextmanager
def _holding(day: DayAccount, reservation: Reservation) -> Iterator[None]:
    """Keep a day's sum of what is held right while one of its reservations changes."""
    day.held_micros -= reservation.held_micros
    yield
    day.held_micros += reservation.held_micros
