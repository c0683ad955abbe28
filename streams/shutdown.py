"""The end of a worker's parts: runs end within the grace, and Kafka is told of it within a bound.

Where no broker answers, each client of Kafka waits for its own time-outs, up to 40 s and one after
the other. Nobody is helped by that: what was not committed is done again by the next owner, and the
group finds out by its session time-out. So all of it together has a bound; and once no broker has
answered for a while, it is the grace itself, since nothing that ends later could be committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol

import structlog

from millstream.streams.renewal import Part, Renewed

__all__ = ["CLOSING_S", "Draining", "Leaving", "stop_parts"]

log = structlog.get_logger(__name__)

CLOSING_S = 5.0
"""So long after the grace may last commits, snapshots and leaving the groups take, all together."""


_SPARE_S = 2.5
"""What the rest of a worker takes to end, of a grace in which all of it is to end."""

_LOOK_S = 0.25


class Draining(Part, Protocol):
    """Lanes: what runs in them may end."""

    @property
    def cut_off(self) -> bool:
        """Whether no broker has answered for a while."""

    async def stop(self, grace_s: float) -> bool:
        """Let runs end within the grace, then leave the group; tells whether the group knows."""


class Leaving(Part, Protocol):
    """Views: they leave their group at once."""

    @property
    def cut_off(self) -> bool:
        """Whether no broker has answered for a while."""

    async def stop(self) -> bool:
        """Leave the group; tells whether the group knows."""


async def stop_parts(
    lanes: Sequence[Renewed[Any]],
    views: Renewed[Any] | None,
    grace_s: float,
    *,
    closing_s: float = CLOSING_S,
) -> None:
    """Stop all parts side by side, `lanes` in their order, within `grace_s` and `closing_s`.

    Where no broker answers, within `grace_s`.

    What Kafka was not told of until then is given up, and told in one line. Raises what a part
    raises, once all have stopped.
    """
    now = asyncio.get_running_loop().time
    began_s = now()
    stops: dict[str, asyncio.Task[bool]] = {}

    def stop(name: str, stopping: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        stops[name] = asyncio.create_task(stopping, name=f"stops {name}")
        return stops[name]

    def left_s(more_s: float = 0.0) -> float:
        cut_off = any(one.part.cut_off for one in (*lanes, *([views] if views else [])))
        for_s = grace_s - _SPARE_S if cut_off else grace_s + more_s
        return max(0.0, began_s + for_s - now())

    async def wait(tasks: Iterable[asyncio.Task[bool]], more_s: float = 0.0) -> None:
        while (pending := [one for one in tasks if not one.done()]) and (left := left_s(more_s)):
            await asyncio.wait(pending, timeout=min(left, _LOOK_S))

    if views is not None:
        stop(views.name, _stop_views(views))
    # The first stage stops first: what it hands on is still taken by the next one, and counted.
    for one in lanes:
        await wait([stop(one.name, _stop_lanes(one, left_s()))])
    await wait(stops.values(), closing_s)
    ended = {name: task for name, task in stops.items() if task.done()}
    for name in stops.keys() - ended:
        # Not awaited: Faust takes the cancel for the end of one child, and goes on to the next.
        stops[name].cancel()
        stops[name].add_done_callback(_look_at)
    errors = {name: error for name, task in ended.items() if (error := task.exception())}
    told = {name for name, task in ended.items() if name not in errors and task.result()}
    if untold := sorted(stops.keys() - told):
        log.warning(
            "Kafka was not told of the end: what was not committed is done again by the next "
            "owner, which comes when the session has timed out",
            not_told=untold,
        )
    for error in errors.values():
        raise error


async def _stop_lanes(one: Renewed[Any], grace_s: float) -> bool:
    await one.keep()
    part: Draining = one.part
    return await part.stop(grace_s)


async def _stop_views(one: Renewed[Any]) -> bool:
    await one.keep()
    part: Leaving = one.part
    return await part.stop()


def _look_at(task: asyncio.Task[bool]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("a part that was given up ended with an error", part=task.get_name(), error=error)
