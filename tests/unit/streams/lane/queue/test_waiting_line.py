"""Requests that wait keep the order of their session, and users take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.base import UserKey
from millstream.streams.lane.queue.waiting_line import Ticket, WaitingLine
from millstream.streams.wire.keys import SessionKey

_ORDERS = count()


class Line:
    """A line whose sessions can be blocked."""

    def __init__(self) -> None:
        self.blocked: set[SessionKey] = set()
        self.line = WaitingLine(lambda ticket: ticket.session in self.blocked)

    def join(self, user: str, session: str = "s", order: int | None = None) -> Ticket:
        ticket = a_ticket(user, session, order)
        self.line.join(ticket)
        return ticket

    def all(self) -> Iterator[Ticket]:
        while (ticket := self.line.next(lambda _user: True)) is not None:
            assert self.line.pop(ticket)
            yield ticket


def a_ticket(user: str, session: str = "s", order: int | None = None) -> Ticket:
    number = next(_ORDERS) if order is None else order
    loop = asyncio.new_event_loop()
    stands_at: asyncio.Future[int] = loop.create_future()
    loop.close()
    return Ticket(("t", user, f"r{number}"), ("t", user, session), number, stands_at)


@pytest.fixture
def line() -> Line:
    return Line()


def test_users_take_turns_however_many_one_of_them_sends(line: Line) -> None:
    flood = [line.join("ada") for _ in range(4)]
    one = line.join("bob")
    assert list(line.all()) == [flood[0], one, *flood[1:]]


def test_a_user_without_room_is_passed_over(line: Line) -> None:
    line.join("ada")
    one = line.join("bob")
    assert line.line.next(lambda user: user != ("t", "ada")) is one


def test_a_blocked_session_holds_back_itself_and_no_other(line: Line) -> None:
    line.blocked.add(("t", "ada", "paused"))
    waits = [line.join("ada", "paused") for _ in range(2)]
    goes = line.join("ada", "other")
    assert list(line.all()) == [goes]
    assert line.line.must_queue(("t", "ada"), ("t", "ada", "paused"))
    assert not line.line.must_queue(("t", "ada"), ("t", "ada", "other"))
    line.blocked.clear()
    assert list(line.all()) == []
    line.line.unblock(("t", "ada", "paused"))
    assert list(line.all()) == waits


def test_what_is_set_aside_comes_back_before_what_came_after_it(line: Line) -> None:
    early = a_ticket("ada", order=next(_ORDERS))
    late = [line.join("ada") for _ in range(2)]
    line.line.block(early)
    assert line.line.next(lambda _user: True) is None
    line.line.unblock(early.session)
    assert list(line.all()) == [early, *late]


def test_who_leaves_memory_goes_before_those_who_were_set_aside_meanwhile(line: Line) -> None:
    early = a_ticket("ada", order=next(_ORDERS))
    late = line.join("ada")
    line.blocked.add(late.session)
    assert line.line.next(lambda _user: True) is None
    line.line.block(early)
    line.blocked.clear()
    line.line.unblock(late.session)
    assert list(line.all()) == [early, late]


def test_who_is_set_aside_while_it_is_called_up_does_not_leave(line: Line) -> None:
    ticket = line.join("ada")
    assert line.line.next(lambda _user: True) is ticket
    line.blocked.add(ticket.session)
    assert not line.line.pop(ticket)
    assert len(line.line) == 1


def test_who_is_withdrawn_is_found_no_more_and_holds_nobody_back(line: Line) -> None:
    ready, aside = line.join("ada"), a_ticket("bob")
    line.line.block(aside)
    for ticket in (ready, aside):
        line.line.remove(ticket)
        assert line.line.find(ticket.key) is None
        assert not line.line.must_queue(ticket.user, ticket.session)
    assert len(line.line) == 0
    assert list(line.all()) == []


def aside_of(line: WaitingLine, user: UserKey) -> Iterator[list[Ticket]]:
    return (tickets for session, tickets in line._aside.items() if session[:2] == user)


class Lane:
    """A line, and who was called up from it: each session's runs must be there in order."""

    def __init__(self) -> None:
        self.line = Line()
        self.running: dict[SessionKey, list[Ticket]] = {}
        self.joined = 0

    def join(self, user: str, session: str) -> None:
        self.line.join(user, session)
        self.joined += 1

    def call_up(self, user: str | None = None) -> bool:
        ticket = self.line.line.next(lambda each: user in {None, each[1]})
        if ticket is None:
            return False
        assert ticket.session not in self.line.blocked
        assert self.line.line.pop(ticket)
        self.running.setdefault(ticket.session, []).append(ticket)
        for tickets in self.running.values():
            orders = [each.order for each in tickets]
            assert orders == sorted(orders)
        return True

    def come_back(self, user: str, session: str) -> None:
        """As the queue of a lane does it: all of a session leave before one is called up."""
        key = ("t", user, session)
        self.line.blocked.add(key)
        for ticket in self.running.pop(key, []):
            self.line.line.block(replace(ticket, gone=False))
        self.unblock(user, session)

    def is_counted(self) -> bool:
        """Tell whether each user's are as many as are ready and set aside."""
        line = self.line.line
        return all(
            line.of_user(user) == line.ready_of(user) + sum(map(len, aside_of(line, user)))
            for user in (("t", "ada"), ("t", "bob"))
        )

    def block(self, user: str, session: str) -> None:
        self.line.blocked.add(("t", user, session))

    def unblock(self, user: str, session: str) -> None:
        self.line.blocked.discard(("t", user, session))
        self.line.line.unblock(("t", user, session))


STEP = st.tuples(
    st.sampled_from(
        [
            Lane.join,
            lambda lane, user, _: lane.call_up(user),
            Lane.come_back,
            Lane.block,
            Lane.unblock,
        ]
    ),
    st.sampled_from(["ada", "bob"]),
    st.sampled_from(["s1", "s2"]),
)


@pytest.mark.promise("P4")
@given(st.lists(STEP, max_size=60))
def test_a_session_leaves_in_order_whatever_is_blocked_and_comes_back(
    steps: list[tuple[Callable[[Lane, str, str], object], str, str]],
) -> None:
    lane = Lane()
    for do, user, session in steps:
        do(lane, user, session)
        assert lane.is_counted()
    for _, user, session in tuple(lane.line.blocked):
        lane.unblock(user, session)
    while lane.call_up():
        pass
    assert sum(map(len, lane.running.values())) == lane.joined
    assert len(lane.line.line) == 0


def test_who_comes_back_in_front_of_others_is_counted_once(line: Line) -> None:
    first = line.join("ada", "s1")
    line.blocked.add(first.session)
    assert list(line.all()) == []
    for _ in range(3):
        line.join("ada", "s2")
    line.blocked.clear()
    line.line.unblock(first.session)
    assert line.line.ready_of(first.user) == 4


def test_those_behind_a_blocked_request_go_on_when_it_is_withdrawn(line: Line) -> None:
    first, second = line.join("ada"), line.join("ada")
    line.blocked.add(first.session)
    assert list(line.all()) == []
    line.blocked.clear()
    line.line.remove(first)
    assert list(line.all()) == [second]
