from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

from millstream.agents.hosting.mailbox import Mailbox
from tests.support import eventually

POSTS = 2_000


async def test_calls_are_made_on_the_loop_in_the_order_of_their_posts() -> None:
    mail = Mailbox(asyncio.get_running_loop())
    made: list[tuple[int, int]] = []
    threads: set[int] = set()

    def make(sender: int, number: int) -> None:
        threads.add(threading.get_ident())
        made.append((sender, number))

    def send(sender: int) -> None:
        for number in range(POSTS):
            mail.post(make, sender, number)

    senders = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for each in senders:
        each.start()
    await eventually(lambda: len(made) == 3 * POSTS)
    for each in senders:
        each.join()
    assert threads == {threading.get_ident()}
    for sender in range(3):
        assert [number for by, number in made if by == sender] == list(range(POSTS))


async def test_a_call_that_raises_holds_up_none_behind_it() -> None:
    loop = asyncio.get_running_loop()
    mail = Mailbox(loop)
    raised: list[object] = []
    made: list[int] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    try:
        mail.post(made.append, 1)
        mail.post(int, "no number")
        mail.post(made.append, 2)
        await eventually(lambda: made == [1, 2])
    finally:
        loop.set_exception_handler(before)
    assert [type(each) for each in raised] == [ValueError]


async def test_a_call_is_no_part_of_the_context_that_it_was_posted_in() -> None:
    inside: contextvars.ContextVar[str] = contextvars.ContextVar("inside", default="none")
    mail = Mailbox(asyncio.get_running_loop())
    seen: list[str] = []

    def post() -> None:
        inside.set("a run")
        mail.post(lambda: seen.append(inside.get()))

    contextvars.copy_context().run(post)
    await eventually(lambda: seen == ["none"])


def test_what_is_posted_to_a_loop_that_is_closed_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    mail = Mailbox(loop)
    loop.close()
    mail.post(print)


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts how often it is woken."""

    wakes = 0

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self.wakes += 1
        return super().call_soon_threadsafe(*args, **kwargs)


async def test_what_a_loop_posts_in_one_turn_wakes_the_other_loop_once() -> None:
    other = CountingLoop()
    mail = Mailbox(other)
    made: list[int] = []
    for number in range(3):
        mail.post(made.append, number)
    assert other.wakes == 0
    await eventually(lambda: other.wakes == 1)
    mail.post(made.append, 3)  # before the others were delivered
    other.call_later(0.01, other.stop)
    await asyncio.to_thread(other.run_forever)
    other.close()
    assert made == [0, 1, 2, 3]
    assert other.wakes == 1
