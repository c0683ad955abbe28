"""The requests of a lane that wait outside memory: in order per session, in turns per user."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from millstream.schemas.base import UserKey
from millstream.streams.lane.runs.admission import TemplateRef
from millstream.streams.wire.keys import RequestKey, SessionKey


@dataclass(frozen=True, slots=True)
class UntilTime:
    """It waits until a time, by its worker's clock: that of its next attempt."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class ForTemplate:
    """It waits since `since_ms` until its lane's worker has a template, or its deadline comes."""

    template: TemplateRef
    since_ms: int
    deadline_ms: int | None = None


Wait = UntilTime | ForTemplate
"""What a request waits for beside its turn; see `waits.py`."""


@dataclass(slots=True, eq=False)
class Ticket:
    """The place of a parked request in the line; the request itself is on the topic `parked`.

    `stands_at` gives the offset of its record there, once that is committed. `order` is where the
    request stands among those of its session, `wait` what it waits for beside its turn. `restored`:
    another owner parked it. `may_follow`: an earlier attempt may have shown tokens. `journal_ms` is
    when its journal began, by its record: `None` where it has none, 0 where nobody said. `behind`
    is the one behind it, of the same user.
    """

    key: RequestKey
    session: SessionKey
    order: int
    stands_at: asyncio.Future[int]
    wait: Wait | None = None
    template: str = ""
    restored: bool = False
    may_follow: bool = False
    journal_ms: int | None = None
    gone: bool = False
    behind: Ticket | None = field(default=None, repr=False)

    @property
    def user(self) -> UserKey:
        """Whose it is."""
        return self.key[:2]


_order = attrgetter("order")


class _Queue:
    """One user's tickets that are ready. Most users have one, and a deque takes 0.7 kB."""

    __slots__ = ("_count", "_last", "first")

    def __init__(self) -> None:
        self.first: Ticket | None = None
        self._last: Ticket | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, ticket: Ticket) -> None:
        if self._last is None:
            self.first = ticket
        else:
            self._last.behind = ticket
        self._last = ticket
        self._count += 1

    def prepend(self, tickets: Iterable[Ticket]) -> None:
        """Put tickets in front of all others, in the order given."""
        others, last, count = self.first, self._last, self._count
        self.first, self._last, self._count = None, None, 0
        for ticket in tickets:
            self.append(ticket)
        if others is not None:
            self.append(others)
            self._last, self._count = last, self._count - 1 + count

    def pop_first(self) -> None:
        assert self.first is not None  # noqa: S101  whoever pops it has looked at it
        ticket, self.first = self.first, self.first.behind
        ticket.behind = None
        self._count -= 1
        if self.first is None:
            self._last = None


class FreedUsers:
    """Users of whom fewer wait or run than before, until somebody takes them from here.

    `changed` is set while there are some. Nothing is kept unless it is `wanted`: mostly nobody is
    kept waiting, and each request that ends would be told for nothing.
    """

    def __init__(self) -> None:
        self._users: dict[UserKey, None] = {}
        self.changed = asyncio.Event()
        self.wanted = False

    def add(self, user: UserKey) -> None:
        """Note that a user has fewer."""
        if self.wanted:
            self._users[user] = None
            self.changed.set()

    def take(self) -> tuple[UserKey, ...]:
        """Give those who came since the last time, in order."""
        users, self._users = tuple(self._users), {}
        return users


class WaitingLine:
    """Tickets by user, first come first served; users take turns.

    `blocked` says of a ticket that its session may not go on now. Such a one is set aside with all
    of its session that come after it, until `unblock`. `freed` takes the users of whom fewer are
    ready. Memory per ticket: `benchmarks/measures/memory.py` has it in.
    """

    def __init__(
        self,
        blocked: Callable[[Ticket], bool],
        freed: FreedUsers | None = None,
    ) -> None:
        self._blocked = blocked
        self._freed = freed or FreedUsers()
        self._of_user: Counter[UserKey] = Counter()
        self._tickets: dict[RequestKey, Ticket] = {}
        self._ready: OrderedDict[UserKey, _Queue] = OrderedDict()
        self._aside: dict[SessionKey, list[Ticket]] = {}

    def __len__(self) -> int:
        """Give the number of requests that wait."""
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """Give every ticket, in no particular order."""
        return iter(tuple(self._tickets.values()))

    def must_queue(self, user: UserKey, session: SessionKey) -> bool:
        """Tell whether a newcomer must wait behind what is in the line already."""
        return user in self._ready or session in self._aside

    def of_user(self, user: UserKey) -> int:
        """Count the requests of a user that wait."""
        return self._of_user[user]

    def ready_of(self, user: UserKey) -> int:
        """Count those that wait for their turn alone, and were not set aside."""
        return len(self._ready.get(user, ()))

    def join(self, ticket: Ticket) -> None:
        """Come in behind all others of this user."""
        self._ready_of(self._know(ticket)).append(ticket)

    def block(self, ticket: Ticket) -> None:
        """Come in at the ticket's own place in its session, which waits until `unblock`."""
        self._know(ticket)
        insort(self._aside.setdefault(ticket.session, []), ticket, key=_order)

    def find(self, key: RequestKey) -> Ticket | None:
        """Give the ticket of a request, if it waits here."""
        return self._tickets.get(key)

    def next(self, has_room: Callable[[UserKey], bool]) -> Ticket | None:
        """Give who is next among the users that `has_room` for; it stays in the line."""
        # `_first` may change `_ready`. Only a few users can lack room while there is any, so this
        # looks at a few, however many wait.
        while (user := next(filter(has_room, self._ready), None)) is not None:
            if (ticket := self._first(user)) is not None:
                return ticket
        return None

    def pop(self, ticket: Ticket) -> bool:
        """Take a ticket out of the line, and let the next user have a turn.

        Gives false where it is out of the line, or was set aside, since `next` named it.
        """
        queue = self._ready.get(ticket.user)
        if ticket.gone or queue is None or queue.first is not ticket or self._waits(ticket):
            return False
        queue.pop_first()
        self._forget(ticket)
        if queue:
            self._ready.move_to_end(ticket.user)
        else:
            del self._ready[ticket.user]
        self._freed.add(ticket.user)
        return True

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out wherever it stands: its request has ended."""
        self._forget(ticket)
        aside = self._aside.get(ticket.session, [])
        if ticket in aside:
            aside.remove(ticket)
            self.unblock(ticket.session)  # the others may have waited for this one alone
        else:
            self._first(ticket.user)  # so that nobody waits behind those that are gone
        self._freed.add(ticket.user)

    def unblock(self, session: SessionKey) -> None:
        """Put what was set aside of a session in front of its user's line again."""
        aside = self._aside.pop(session, None)
        if aside:
            self._ready_of(aside[0].user).prepend(aside)

    def _ready_of(self, user: UserKey) -> _Queue:
        queue = self._ready.get(user)
        if queue is None:
            queue = self._ready[user] = _Queue()
        return queue

    def _waits(self, ticket: Ticket) -> bool:
        return ticket.session in self._aside or self._blocked(ticket)

    def _first(self, user: UserKey) -> Ticket | None:
        queue = self._ready.get(user)
        while queue is not None and (ticket := queue.first) is not None:
            if not ticket.gone and not self._waits(ticket):
                return ticket
            queue.pop_first()
            if not ticket.gone:
                self.block(ticket)
                self._freed.add(user)
        self._ready.pop(user, None)
        return None

    def _know(self, ticket: Ticket) -> UserKey:
        user = ticket.user
        self._of_user[user] += ticket.key not in self._tickets
        self._tickets[ticket.key] = ticket
        return user

    def _forget(self, ticket: Ticket) -> None:
        ticket.gone = True
        if self._tickets.pop(ticket.key, None) is not None:
            self._of_user[ticket.user] -= 1
            if not self._of_user[ticket.user]:
                del self._of_user[ticket.user]
