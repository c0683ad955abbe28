"""The requests of a lane that wait outside memory: in order per session, in turns per user."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from streams.keys import RequestKey, SessionKey

User = tuple[str, str]
"""Tenant and user id."""


@dataclass(slots=True, eq=False)
class Ticket:
    """The place of a parked request in the line; the request itself is on the topic `parked`.

    `stands_at` gives the offset of its record there, once that is committed. `order` is where the
    request stands among those of its session. `restored`: another owner parked it.
    """

    key: RequestKey
    session: SessionKey
    order: int
    stands_at: asyncio.Future[int]
    not_before_ms: int = 0
    restored: bool = False
    gone: bool = False

    @property
    def user(self) -> User:
        """Whose it is."""
        return self.key[:2]


_order = attrgetter("order")


class WaitingLine:
    """Tickets by user, first come first served; users take turns.

    `blocked` says of a ticket that its session may not go on now. Such a one is set aside with all
    of its session that come after it, until `release`. `on_shorter` is called whenever fewer of a
    user's are ready. Memory per ticket: `benchmarks/memory.py` has it in.
    """

    def __init__(
        self,
        blocked: Callable[[Ticket], bool],
        on_shorter: Callable[[User], None] = lambda _user: None,
    ) -> None:
        self._blocked = blocked
        self._on_shorter = on_shorter
        self._of_user: Counter[User] = Counter()
        self._tickets: dict[RequestKey, Ticket] = {}
        self._ready: OrderedDict[User, deque[Ticket]] = OrderedDict()
        self._aside: dict[SessionKey, list[Ticket]] = {}

    def __len__(self) -> int:
        """Give the number of requests that wait."""
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """Give every ticket, in no particular order."""
        return iter(tuple(self._tickets.values()))

    def holds_back(self, user: User, session: SessionKey) -> bool:
        """Tell whether a newcomer must wait behind what is in the line already."""
        return user in self._ready or session in self._aside

    def of_user(self, user: User) -> int:
        """Count the requests of a user that wait."""
        return self._of_user[user]

    def ready_of(self, user: User) -> int:
        """Count those that wait for their turn alone, and were not set aside."""
        return len(self._ready.get(user, ()))

    def join(self, ticket: Ticket) -> None:
        """Come in behind all others of this user."""
        self._know(ticket)
        self._ready.setdefault(ticket.user, deque()).append(ticket)

    def set_aside(self, ticket: Ticket) -> None:
        """Come in at the ticket's own place in its session, which waits until `release`."""
        self._know(ticket)
        insort(self._aside.setdefault(ticket.session, []), ticket, key=_order)

    def find(self, key: RequestKey) -> Ticket | None:
        """Give the ticket of a request, if it waits here."""
        return self._tickets.get(key)

    def next(self, has_room: Callable[[User], bool]) -> Ticket | None:
        """Give who is next among the users that `has_room` for; it stays in the line."""
        # `_first` may change `_ready`. Only a few users can lack room while there is any, so this
        # looks at a few, however many wait.
        while (user := next(filter(has_room, self._ready), None)) is not None:
            if (ticket := self._first(user)) is not None:
                return ticket
        return None

    def leave(self, ticket: Ticket) -> bool:
        """Take a ticket out of the line, and let the next user have a turn.

        Gives false where it is out of the line, or was set aside, since `next` named it.
        """
        queue = self._ready.get(ticket.user)
        if ticket.gone or not queue or queue[0] is not ticket or self._waits(ticket):
            return False
        queue.popleft()
        self._forget(ticket)
        if queue:
            self._ready.move_to_end(ticket.user)
        else:
            del self._ready[ticket.user]
        self._on_shorter(ticket.user)
        return True

    def withdraw(self, ticket: Ticket) -> None:
        """Take a ticket out wherever it stands: its request has ended."""
        self._forget(ticket)
        aside = self._aside.get(ticket.session, [])
        if ticket in aside:
            aside.remove(ticket)
            self.release(ticket.session)  # the others may have waited for this one alone
        else:
            self._first(ticket.user)  # so that nobody waits behind those that are gone
        self._on_shorter(ticket.user)

    def release(self, session: SessionKey) -> None:
        """Put what was set aside of a session in front of its user's line again."""
        aside = self._aside.pop(session, None)
        if aside:
            queue = self._ready.setdefault(aside[0].user, deque())
            queue.extendleft(reversed(aside))

    def _waits(self, ticket: Ticket) -> bool:
        return ticket.session in self._aside or self._blocked(ticket)

    def _first(self, user: User) -> Ticket | None:
        queue = self._ready.get(user)
        while queue:
            ticket = queue[0]
            if not ticket.gone and not self._waits(ticket):
                return ticket
            queue.popleft()
            if not ticket.gone:
                self.set_aside(ticket)
                self._on_shorter(user)
        self._ready.pop(user, None)
        return None

    def _know(self, ticket: Ticket) -> None:
        self._of_user[ticket.user] += ticket.key not in self._tickets
        self._tickets[ticket.key] = ticket

    def _forget(self, ticket: Ticket) -> None:
        ticket.gone = True
        if self._tickets.pop(ticket.key, None) is not None:
            self._of_user[ticket.user] -= 1
            if not self._of_user[ticket.user]:
                del self._of_user[ticket.user]
