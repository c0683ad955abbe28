"""Group commit: the records of many runs leave in one short transaction.

A transaction (`transactions.py`) costs much the same CPU whatever it holds, so an idle lane commits
at once and a busy one gathers: what came while the last commit was under way, and for as long again
as that took.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from millstream.schemas.errors import LaneLost, MillstreamError
from millstream.streams.broker.batches import Outgoing
from millstream.streams.transactions.producers import CommitRefused, MakeProducer, ProducerRotation

__all__ = ["LAZY_S", "CommitRefused", "Committer", "Hear", "Outcome"]

log = structlog.get_logger(__name__)

_STOP_TIMEOUT_S = 5.0
"""The longest that a commit which is under way may take when its lane is closed."""

LAZY_S = 0.05
"""How long records that nobody waits for wait for company."""

_LOOK_EVERY_S = 2.0


Outcome = tuple[int, ...] | MillstreamError
"""What became of records: their offsets once they are committed, or why they are not written."""

Hear = Callable[[Outcome], None]
"""Hears it once, in the tick in which it is known."""


def _ignore(_outcome: Outcome) -> None:
    """Nobody hears."""


@dataclass(slots=True, eq=False)
class _Member:
    """Records that commit together or not at all, and who waits for it.

    `alone`: the broker refused a record of the group it was in, so it goes by itself.
    """

    records: tuple[Outgoing, ...]
    hear: Hear
    lazy: bool
    committed: asyncio.Future[tuple[int, ...]] = field(default_factory=asyncio.Future)
    alone: bool = False

    def settle(self, offsets: tuple[int, ...]) -> None:
        """Tell that the records are committed; whoever waited may have been cancelled."""
        self.hear(offsets)
        if not self.committed.done():
            self.committed.set_result(offsets)

    def refuse(self, error: MillstreamError) -> None:
        """Tell why nothing was written."""
        self.hear(error)
        if not self.committed.done():
            self.committed.set_exception(error)
            # Whoever queues lazily need not look: a lost lane is told through `on_lost`.
            self.committed.exception()


class Committer:
    """The transactional side of one lane.

    One transaction is open at a time. `on_lost` is called once, when a commit's outcome is unknown
    or the lane was fenced: nothing is written after that.
    """

    def __init__(
        self,
        make_producer: MakeProducer,
        *,
        producers: int,
        records_max: int,
        timeout_s: float,
        gather_s: float,
        on_lost: Callable[[LaneLost], None],
    ) -> None:
        self._transactions = ProducerRotation(
            make_producer, producers=producers, timeout_s=timeout_s
        )
        self._records_max = records_max
        self._on_lost = on_lost
        self._waiting: deque[_Member] = deque()
        self._wake = asyncio.Event()
        self._lazily: asyncio.TimerHandle | None = None
        self._gather_s = gather_s
        self._busy = False
        self._last_s = 0.0
        self._began_s: float | None = None
        self._due = False
        self._lost: LaneLost | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self.transactions = 0
        self.records = 0

    async def start(self) -> None:
        """Fence every earlier owner and abort what it left open, then take commits.

        Raises `LaneLost` if the broker does not let it.
        """
        try:
            await self._transactions.start()
        except LaneLost:
            await self.stop()
            raise
        self._task = asyncio.create_task(self._run(), name="committer")
        self._looking = asyncio.create_task(self._look(), name="committer looks")

    async def fence_up_to(self, producers: int) -> None:
        """Fence an earlier owner that had this many producers, more than this one has.

        Raises `LaneLost` if the broker does not let it.
        """
        await self._transactions.fence_up_to(producers)

    async def stop(self) -> None:
        """Stop without committing what still waits; those who wait are told `LaneLost`.

        A commit that is under way may end: cut off, it would leave a transaction open, which hides
        what comes behind it until a successor fences it or it times out.
        """
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._lose(LaneLost("the lane was closed"), tell=False)
        await self._transactions.stop()

    @property
    def committing_s(self) -> float:
        """For how many seconds a commit has been under way, 0 where none is."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def submit(
        self, records: Iterable[Outgoing], *, lazy: bool = False, hear: Hear = _ignore
    ) -> asyncio.Future[tuple[int, ...]]:
        """Queue records that commit together; gives their offsets once committed.

        The future raises `CommitRefused` if one of them cannot be written, and `LaneLost` if the
        lane is lost. `lazy` records wait up to `LAZY_S` for others to go with. Futures are done in
        the order in which they were given, but for what is too large, which is refused at once.
        One without records writes nothing: it is done when all that was queued before it is.
        `hear` is told the outcome in the same order, in the tick in which it is known, before
        whoever waits and whether anybody still does.
        """
        member = _Member(tuple(records), hear, lazy)
        if self._lost is not None:
            member.refuse(self._lost)
        elif (oversized := _oversized(member.records)) is not None:
            member.refuse(oversized)
        else:
            self._waiting.append(member)
            if not lazy:
                self._hurry()
            elif self._lazily is None:
                self._lazily = asyncio.get_running_loop().call_later(LAZY_S, self._hurry)
                self._wake.set()
        return member.committed

    def _hurry(self) -> None:
        self._due = True
        self._wake.set()

    async def _run(self) -> None:
        while self._lost is None:
            await self._wake.wait()
            if self._stopping.is_set():
                return
            if not self._due:
                self._wake.clear()
                await self._begin_early()
                continue
            if self._busy:
                # As long as the last one took: a slow broker is given fewer of them to do.
                await asyncio.sleep(min(self._gather_s, self._last_s))
            if self._stopping.is_set():
                return
            members = self._gather()
            if not self._waiting:
                self._wake.clear()
                self._due = False
                if self._lazily is not None:
                    self._lazily.cancel()
                    self._lazily = None
            self._busy = sum(not member.lazy for member in members) > 1
            if not members:
                continue
            try:
                await self._commit_all(members)
            # Whatever else a client raises, the outcome is unknown; those who wait must hear of it.
            except Exception as error:
                log.exception("a commit failed in an unforeseen way")
                self._waiting.extendleft(reversed(members))
                self._lose(LaneLost(f"a commit failed: {error!r}"))

    async def _look(self) -> None:
        """Lose the lane if what it has committed turns out to hang, though nothing is committed."""
        while self._lost is None:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._transactions.look()
            except LaneLost as lost:
                self._lose(lost)
            except Exception as error:
                log.exception("hanging transactions were not looked for, in an unforeseen way")
                self._lose(LaneLost(f"hanging transactions were not looked for: {error!r}"))

    async def _begin_early(self) -> None:
        """Begin the transaction while its first records wait for others."""
        try:
            await self._transactions.begin(
                [record for member in self._waiting for record in member.records]
            )
        except LaneLost as lost:
            self._lose(lost)
        except Exception as error:
            log.exception("a transaction did not begin, in an unforeseen way")
            self._lose(LaneLost(f"a transaction did not begin: {error!r}"))

    def _gather(self) -> list[_Member]:
        members: list[_Member] = []
        count = 0
        while self._waiting and (not members or count < self._records_max):
            if members and self._waiting[0].alone:
                break
            members.append(self._waiting.popleft())
            count += len(members[-1].records)
            if members[-1].alone:
                break
        return members

    async def _commit_all(self, members: list[_Member]) -> None:
        try:
            await self._commit(members)
        except CommitRefused as refused:
            if len(members) == 1:
                members[0].refuse(refused)
                return
            # One bad record must fail only its own run.
            for member in members:
                member.alone = True
            self._waiting.extendleft(reversed(members))
            self._hurry()
        except LaneLost as lost:
            self._waiting.extendleft(reversed(members))
            self._lose(lost)
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(members))
            raise

    async def _commit(self, members: list[_Member]) -> None:
        records = [record for member in members for record in member.records]
        if not records:
            _tell(members, ())
            return
        self._began_s = began = time.monotonic()
        try:
            offsets = await self._transactions.commit(records)
        finally:
            self._began_s = None
        self._last_s = time.monotonic() - began
        self.transactions += 1
        self.records += len(offsets)
        _tell(members, offsets)

    def _lose(self, lost: LaneLost, *, tell: bool = True) -> None:
        if self._lost is not None:
            return
        self._lost = lost
        self._tell_waiting(lost)
        if tell:
            self._on_lost(lost)

    def _tell_waiting(self, lost: LaneLost) -> None:
        for member in self._waiting:
            member.refuse(lost)
        self._waiting.clear()


def _tell(members: Iterable[_Member], offsets: Sequence[int]) -> None:
    """Give each member the offsets of its records, in order."""
    first = 0
    for member in members:
        end = first + len(member.records)
        member.settle(tuple(offsets[first:end]))
        first = end


def _oversized(records: tuple[Outgoing, ...]) -> CommitRefused | None:
    """Find a record that the broker would refuse: better not to begin at all."""
    for record in records:
        if record.encoded.size_bytes > record.bytes_max:
            return CommitRefused(
                f"a record for {record.topic} has {record.encoded.size_bytes} bytes, "
                f"more than {record.bytes_max}"
            )
    return None
