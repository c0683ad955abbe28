"""Makes up for what the session view lacks, and finds out when it has lost what it had.

What the view says of itself is compared with what it was given, each second: a Redis that was
emptied says nothing, one that came back with an older copy, or a replica that took over, says less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import structlog
from aiokafka.errors import KafkaError

from millstream.schemas.errors import ForeignKey, LaneLost, ServiceUnavailable
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.sessions.in_redis.marks import Stand
from millstream.streams.telemetry.outages import REDIS
from millstream.streams.views.session_feed import SessionFeed

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["Fed", "Marks", "SessionHealing"]

_COMPARE_INTERVAL_S: Final = 1.0
_BACKOFF_MIN_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0

log = structlog.get_logger(__name__)


class Marks(Protocol):
    """What the view says of itself; both calls raise `ServiceUnavailable` and `ForeignKey`."""

    async def read(self) -> Mapping[str, Stand]:
        """Give up to where the view has what, by the names under which it was marked."""
        ...

    async def claim(self, stands: Mapping[str, Stand]) -> bool:
        """Mark that, if all is as it was when it was read last; tell whether it was."""
        ...


class Fed(NamedTuple):
    """A partition of a topic that this worker feeds the view with; `position`: begun there."""

    topic: str
    partition: int
    feed: SessionFeed[Any]
    position: int

    @property
    def name(self) -> str:
        """The name under which it is marked."""
        return f"{self.topic}/{self.partition}"

    def stand(self) -> Stand:
        """Give up to where the view has it, as far as its feed knows."""
        return self.feed.stand(self.partition, self.position)


class SessionHealing:
    """Heals the session view.

    `fed` gives what this worker feeds now, nothing while that is not settled. `on_lost` hears of
    each partition of which the view lost something. Without `marks` nothing is ever lost. `reader`
    makes what reads the log.
    """

    def __init__(
        self,
        settings: Settings,
        fed: Callable[[], Iterator[Fed]],
        marks: Marks | None,
        *,
        on_lost: Callable[[], object] = lambda: None,
        reader: Callable[[], PartitionReader] | None = None,
    ) -> None:
        self._reader = reader or partial(PartitionReader, settings)
        self._fed = fed
        self._marks = marks
        self._on_lost = on_lost
        self._behind = asyncio.Event()
        self._compared: set[str] = set()
        self._is_told = False
        """Whether the log says that the view is behind; if so, it is to say how that ends."""

    def wake(self) -> None:
        """Say that some feed is behind, and has told so."""
        self._is_told = True
        self._behind.set()

    async def heal(self, feeds: Sequence[SessionFeed[Any]]) -> None:
        """Make up for what the view lacks of these, in their order, until cancelled."""
        backoff_s = _BACKOFF_MIN_S
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self._catch_up(feeds)
            except (ServiceUnavailable, LaneLost, KafkaError) as error:
                log.warning("session view is still behind", reason=str(error), outage=REDIS)
                self.wake()
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
            else:
                backoff_s = _BACKOFF_MIN_S
                # Of a partition that came with some records to make up for, nothing was told.
                tell = log.warning if self._is_told else log.info
                self._is_told = False
                tell("session view has caught up")

    async def watch(self) -> None:
        """Compare what the view says of itself with what it was given, until cancelled."""
        interval_s = _BACKOFF_MIN_S  # what a new view is not yet given is not lost
        told = ""
        while self._marks is not None:
            await asyncio.sleep(interval_s)
            try:
                if await self.compare(self._marks):
                    interval_s = _COMPARE_INTERVAL_S
            except ServiceUnavailable:
                continue  # told by the feed, which makes up for it
            except ForeignKey as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("session view cannot be marked, delete the key", reason=told)

    async def compare(self, marks: Marks) -> bool:
        """Mark up to where the view has what; have that made up for which it had and lacks.

        Tells whether there was something to compare.
        """
        fed = list(self._fed())
        compared, self._compared = self._compared, {one.name for one in fed}
        if not fed or await marks.claim(_stands(fed)):
            return bool(fed)
        stands = await marks.read()
        behind = [one for one in fed if _had(stands.get(one.name)) < one.stand().offset]
        # Of a partition that was another's, the last mark may be older than what was put.
        lost = [one for one in behind if one.name in compared or one.name not in stands]
        is_told = self._is_told or bool(lost)
        for one in behind:
            one.feed.lost(one.partition, _had(stands.get(one.name)), one.position)
        self._is_told = is_told
        for _ in lost:
            self._on_lost()
        if lost:
            log.warning(
                "session view lost what it had: it was emptied, or is an older copy, or is marked "
                "for the first time; it is made up from the log",
                partitions=len(lost),
            )
        await marks.claim(_stands(fed))
        return True

    async def _catch_up(self, feeds: Sequence[SessionFeed[Any]]) -> None:
        reader = self._reader()
        try:
            await reader.start()
            for feed in feeds:
                await feed.catch_up(reader)
        finally:
            await reader.stop()


def _stands(fed: Iterable[Fed]) -> dict[str, Stand]:
    return {one.name: one.stand() for one in fed}


def _had(stand: Stand | None) -> int:
    return 0 if stand is None else stand.offset
