"""Waiting, for tests: the only wait loop among them lives here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_POLL_S = 0.02


@overload
async def eventually(condition: Callable[[], Awaitable[T]], *, timeout_s: float = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T], *, timeout_s: float = ...) -> T: ...
async def eventually(condition: Callable[[], Any], *, timeout_s: float = 30.0) -> Any:
    """Ask `condition` until what it gives is true, and give that back.

    The condition may be a coroutine function. An `AssertionError` of its own counts as "not yet";
    any other exception is the test's failure at once. Raises `AssertionError` after `timeout_s`
    seconds, with the last value or the last assertion.
    """
    last = "it never gave an answer"
    try:
        async with asyncio.timeout(timeout_s) as limit:
            while True:
                try:
                    answer = condition()
                    value = await answer if inspect.isawaitable(answer) else answer
                except AssertionError as not_yet:
                    last = f"the last assertion was: {not_yet}"
                else:
                    if value:
                        return value
                    last = f"the last value was: {value!r}"
                await asyncio.sleep(_POLL_S)  # noqa: TID251  every other wait in tests is this one
    except TimeoutError:
        if not limit.expired():
            raise
        message = f"not true within {timeout_s:g} s; {last}"
        raise AssertionError(message) from None
