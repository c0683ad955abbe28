"""What is full stays full until a tenth is free."""

from __future__ import annotations

import asyncio

from millstream.streams.lane.queue.quotas import Backpressure
from millstream.streams.lane.queue.waiting_line import FreedUsers


class Using:
    """Something that uses a room for ten."""

    def __init__(self) -> None:
        self.count = 0
        self.backpressure = Backpressure("requests-0", 10, lambda: self.count)

    def use(self, count: int) -> None:
        self.count = count
        self.backpressure.update()


def test_there_is_room_up_to_the_most() -> None:
    using = Using()
    using.use(9)
    assert using.backpressure.is_open()
    using.use(10)
    assert not using.backpressure.is_open()


async def test_what_was_full_is_so_until_a_tenth_is_free() -> None:
    using = Using()
    using.use(12)
    assert not using.backpressure.is_open()
    opened = asyncio.create_task(using.backpressure.opened())
    using.use(10)
    assert not using.backpressure.is_open()
    await asyncio.wait([opened], timeout=0)
    assert not opened.done()
    using.use(9)
    await opened
    assert using.backpressure.is_open()


async def test_nobody_waits_for_room_that_was_never_refused() -> None:
    using = Using()
    using.use(12)
    using.use(3)
    await using.backpressure.opened()


def test_freed_users_are_kept_only_while_they_are_wanted() -> None:
    freed = FreedUsers()
    freed.add(("default", "ada"))
    assert freed.take() == ()
    freed.wanted = True
    for name in ("ben", "cyd", "ben"):
        freed.add(("default", name))
    assert freed.changed.is_set()
    assert freed.take() == (("default", "ben"), ("default", "cyd"))
    assert freed.take() == ()
