"""A coroutine's first step is taken at once; what is left of it can be awaited anywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millstream.streams.consumer.faust_consumer import eager_start


async def test_a_coroutine_that_need_not_wait_is_done_at_once() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    assert eager_start(work()) is None
    assert done == [1]


async def test_the_rest_of_a_coroutine_that_waits_goes_on_in_another_task() -> None:
    given: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    heard: list[int] = []

    async def work() -> str:
        heard.append(await given)
        heard.append(await asyncio.wait_for(asyncio.shield(given), 5))
        return "done"

    rest = eager_start(work())
    assert rest is not None
    assert heard == []

    async def wait_for_rest() -> Any:
        return await rest

    task = asyncio.create_task(wait_for_rest())
    given.set_result(7)
    assert await task == "done"
    assert heard == [7, 7]


async def test_an_error_of_the_first_step_comes_at_once_and_a_later_one_where_it_is_awaited() -> (
    None
):
    given: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def fail() -> None:
        int("at once")

    async def fail_later() -> None:
        await given
        int("later")

    with pytest.raises(ValueError, match="at once"):
        eager_start(fail())
    rest = eager_start(fail_later())
    assert rest is not None
    given.set_result(0)
    with pytest.raises(ValueError, match="later"):
        await rest


async def test_whoever_cancels_the_wait_cancels_the_coroutine() -> None:
    given: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await given
        finally:
            cleaned.append("cleaned")

    rest = eager_start(work())

    async def wait_for_rest() -> Any:
        assert rest is not None
        return await rest

    task = asyncio.create_task(wait_for_rest())
    await asyncio.to_thread(lambda: None)  # it waits by now
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["cleaned"]
    assert given.cancelled()
