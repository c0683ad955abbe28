"""Parts of a worker that are built anew where an outage has ended them; the worker goes on.

Faust ends an app for good where a broker does not answer at the wrong moment: in a commit, a seek,
while a table is restored; and where a right is taken away. What such a part holds is a fold of
topics, so another one takes over in the same process as one of another process would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import structlog
from aiokafka.errors import KafkaError

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.telemetry.causes import causes_of, is_denied, is_transient
from millstream.streams.telemetry.outages import KAFKA, RIGHTS

__all__ = ["Part", "Renewed", "ended_by_outage"]

_BACKOFF_MIN_S = 1.0
_BACKOFF_MAX_S = 10.0
# A part that has not started by then never will: where Faust is refused while it starts, it can
# wait for itself.
_START_MAX_S = 120.0

log = structlog.get_logger(__name__)


class Part(Protocol):
    """What may be ended by an outage."""

    @property
    def failure(self) -> BaseException | None:
        """What ended it, `None` while it runs."""

    async def start(self) -> None:
        """Start. Raises anything where no broker answers."""


PartT = TypeVar("PartT", bound=Part)


def ended_by_outage(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, says only that a service is away or slow.

    A right that was taken away counts too: it may be given back.
    """
    return any(
        isinstance(one, ServiceUnavailable) or is_transient(one) for one in causes_of(error)
    ) or is_denied(error)


class Renewed(Generic[PartT]):
    """Holds a part, and another one of `make` in its place once an outage has ended it.

    `stop` lets go of what is left of the old one. Call `look` often. A part that is built anew and
    has not started after `start_max_s` is given up for the next one.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], PartT],
        stop: Callable[[PartT], Awaitable[object]],
        *,
        backoff_s: float = _BACKOFF_MIN_S,
        start_max_s: float = _START_MAX_S,
    ) -> None:
        self.name = name
        self._make = make
        self._stop = stop
        self._backoff_s = backoff_s
        self._start_max_s = start_max_s
        self._renewing: asyncio.Task[None] | None = None
        self.part = make()

    async def start(self) -> None:
        """Start the first part. Raises what it raises."""
        await self.part.start()

    @property
    def renewing(self) -> bool:
        """Whether no part is there to serve, and another one is being started."""
        return self._renewing is not None

    @property
    def failure(self) -> BaseException | None:
        """What ended it for good: an error that is no outage."""
        task = self._renewing
        if task is not None and task.done():
            return None if task.cancelled() else task.exception()
        failure = self.part.failure
        return None if task is not None or failure is None or ended_by_outage(failure) else failure

    def look(self) -> None:
        """Begin to renew the part if an outage has ended it."""
        task, failure = self._renewing, self.part.failure
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            self._renewing = task = None
        if task is None and failure is not None and ended_by_outage(failure):
            log.warning("a part is built anew", part=self.name, reason=repr(failure))
            self._renewing = asyncio.create_task(self._renew(), name=f"renews {self.name}")

    async def stop(self) -> None:
        """Renew no more, and stop the part."""
        await self.keep()
        await self._stop(self.part)

    async def keep(self) -> None:
        """Renew no more: the part is the last one."""
        task, self._renewing = self._renewing, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _renew(self) -> None:
        backoff_s = self._backoff_s
        while True:
            await self._stop(self.part)
            self.part = self._make()
            limit = asyncio.timeout(self._start_max_s)
            try:
                async with limit:
                    await self.part.start()
            except (ServiceUnavailable, KafkaError, OSError) as error:
                if not ended_by_outage(error):
                    raise
                outage = RIGHTS if is_denied(error) else KAFKA
                reason = repr(error)
                if limit.expired():
                    reason = f"it has not started within {self._start_max_s:g} s"
                log.warning("a part is not built yet", reason=reason, outage=outage)
            else:
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
