"""A call in a thread never waits for another, and a thread that is done is used again."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future, wait

from millstream.agents.threads import Threads
from tests.support import eventually


def call(threads: Threads, until: threading.Event | None = None) -> Future[threading.Thread]:
    future: Future[threading.Thread] = Future()

    def run() -> None:
        if until is not None:
            until.wait(10)
        future.set_result(threading.current_thread())

    threads.run("called", run)
    return future


async def test_a_thread_that_is_done_takes_the_next_call() -> None:
    threads = Threads()
    first = call(threads).result(5)
    await eventually(lambda: first.name == "agents-idle")
    assert {await call_and_idle(threads, first) for _ in range(20)} == {first}


async def call_and_idle(threads: Threads, thread: threading.Thread) -> threading.Thread:
    used = call(threads).result(5)
    await eventually(lambda: thread.name == "agents-idle")
    return used


def test_calls_that_hang_keep_none_waiting() -> None:
    threads, let_go = Threads(), threading.Event()
    hung = [call(threads, let_go) for _ in range(20)]
    assert call(threads).result(5).daemon
    let_go.set()
    assert len(wait(hung, 5).done) == 20


def test_as_many_calls_as_come_at_once_are_all_made() -> None:
    threads = Threads(idle_s=0.0)
    calls = [call(threads) for _ in range(500)]
    assert len(wait(calls, 20).done) == 500


def test_a_thread_without_calls_ends() -> None:
    thread = call(Threads(idle_s=0.01)).result(5)
    thread.join(5)
    assert not thread.is_alive()


class Big:
    """What a call holds."""


async def test_what_a_call_held_is_let_go_of_once_it_is_made() -> None:
    threads, big = Threads(), Big()
    seen = weakref.ref(big)
    done: Future[None] = Future()

    def run(_: Big = big) -> None:
        done.set_result(None)

    threads.run("called", run)
    done.result(5)
    del run, big
    await eventually(lambda: seen() is None)
