"""Waits: for a service to answer while its process lives, for all of several, for the first."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from millstream.infra.errors import NotReady
from millstream.infra.processes.process import ChildProcess, log_tail

__all__ = ["eventually", "first", "ready_or_dead", "together"]

_POLL_S = 0.05

_T = TypeVar("_T")


async def eventually(
    answers: Callable[[], Awaitable[bool]], *, what: str, timeout_s: float
) -> None:
    """Poll `answers` until true; raises `NotReady` that names `what` after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await answers():  # noqa: ASYNC110  another process tells us nothing
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        message = f"{what} did not answer within {timeout_s:g} s"
        raise NotReady(message) from error


async def ready_or_dead(
    child: ChildProcess, answers: Callable[[], Awaitable[bool]], *, what: str, timeout_s: float
) -> None:
    """Like `eventually`, but raises `ServiceDied` at once if the child ends before it answers."""
    ready = asyncio.ensure_future(eventually(answers, what=what, timeout_s=timeout_s))
    dead = asyncio.ensure_future(child.wait())
    try:
        await asyncio.wait({ready, dead}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            raise child.died()
        try:
            ready.result()
        except NotReady as error:
            message = f"{error}. The end of {child.log}:\n{log_tail(child.log)}"
            raise NotReady(message) from error
    finally:
        await _cancelled([ready, dead])


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all at once; the first failure cancels the rest and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _cancelled(tasks)


async def first(*work: Coroutine[Any, Any, _T]) -> _T:
    """Run all until one gives a value, cancel the rest."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        await _cancelled(tasks)


async def _cancelled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
