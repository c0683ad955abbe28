"""Faust's consumer with what loses records, and what costs most per record, changed.

What differs from Faust's own, and why:

- It reads `read_committed`. Faust asks for that only under `exactly_once`, which must stay off: it
  derives the transactional id from the output partition and swallows begin errors.
- A gap of offsets (transaction markers, aborted records) no longer counts the record behind it
  as acked: Faust's interval includes that record, and so commits past one in flight.
- An app may say where each partition is to be read from (`position_of`), for state that carries its
  own offsets. Faust alone would trust the committed offset, also where the state is older.
- Offsets are not committed while this member joins its group anew.
- Partitions may be dealt by an assignor of the app's (`assignor_of_lanes`), and what the group's
  coordinator says is told to its `membership`.
- A seek to the committed offset also moves a partition that has none: to its beginning. aiokafka
  leaves such a partition where it is, and a rebalance throws away what it fetched before the seek:
  the first requests of a partition would wait for the next rebalance.
- A partition that cannot be read on where it stood is told of (`offset_gaps.py`), and read from its
  beginning. Faust would drop all records of a log that ends before the committed offset. So is one
  of which nothing is committed: its reader may know more.
- Records are let through only behind the seek. Once tables are restored, Faust resumes partitions,
  then seeks them, then clears the queues of all agents: what came in between is gone.
- It does not look for livelocks. Faust calls it one whenever the first record of a partition comes
  after five minutes of silence, or takes longer to be acked, as a run may.
- It runs in the event loop of its agents. Faust's thread has each fetch cross loops, and both wait.
- Partitions take turns. aiokafka gives of one as long as any of what it fetched of it is left.
- Nothing is fetched for an agent that has no room for it. Faust would wait for room with the first
  record that finds none, and all other agents with it: commands behind a crowd's requests.
- A record that its agent has room for is handed over at once. Faust makes four tasks for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as AIOKafkaConsumer
from faust.transport.drivers.aiokafka import Transport as AIOKafkaTransport
from faust.types import TP
from mode.services import WaitResults
from mode.utils.futures import maybe_async

from millstream.streams.broker.clients import mend_consumers
from millstream.streams.consumer.eager import eager_start
from millstream.streams.consumer.log_ends import LogEnd, answered_by, log_ends_of
from millstream.streams.consumer.membership import join_on
from millstream.streams.consumer.offset_gaps import (
    OffsetGap,
    begins_anywhere,
    begins_at,
    take_gaps,
    watch_resets,
)
from millstream.streams.telemetry.causes import is_transient
from millstream.streams.telemetry.outages import KAFKA

__all__ = ["CommittedTransport"]

log = structlog.get_logger(__name__)


_FETCH_WAIT_MS = 100
# A seek waits for the fetch under way, so a fetch without records must be short.
_FETCH_MAX_S = 0.2

_ROOM_WAIT_S = 0.05


class _NoThread:
    """Stands where Faust has the consumer's thread: its service is a task of this loop."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve; what goes wrong has crashed the service and is told there."""
        self._serving = asyncio.ensure_future(self._service._serve())  # noqa: SLF001
        self._serving.add_done_callback(lambda task: task.cancelled() or task.exception())

    def stop(self) -> None:
        """Nothing to join: whoever stops the service has waited for its shutdown."""


def let_others_go_first(consumer: Any, partitions: Iterable[Any]) -> None:
    """Put what is left of these behind what was fetched of others."""
    fetched = consumer._fetcher._records  # noqa: SLF001  it has no public way
    for partition in partitions:
        if partition in fetched:
            fetched.move_to_end(partition)


class CommittedConsumerThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """What holds the aiokafka consumer: Faust's thread, without the thread."""

    Worker = _NoThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known_committed: dict[TP, int] = {}  # brokers delete it with a topic; lanes live on
        self._handed: dict[TP, int] = {}

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the consumer: it is here."""
        return await maybe_async(fun(*args, **kwargs))

    async def _gather_remaining_tasks(self) -> None:
        """Leave the loop's other tasks alone: they are not the consumer's."""

    def answered(self) -> dict[TP, int | None]:
        """Give what aiokafka notes of each partition that it fetches."""
        return answered_by(self._consumer)

    def log_ends(self) -> dict[TP, LogEnd]:
        """Give where the log of each partition ends, as brokers answered last."""
        return log_ends_of(self._consumer, self._handed)

    def _create_worker_consumer(self, transport: AIOKafkaTransport) -> Any:
        mend_consumers()
        watch_resets()
        consumer = super()._create_worker_consumer(transport)
        # Both are read at `start()`, which comes later. Faust hard-wires them; a rename in aiokafka
        # must fail here, not fall back to reading aborted records.
        for name in ("_isolation_level", "_fetch_max_wait_ms"):
            getattr(consumer, name)
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001
        if self.app.assignor_of_lanes is not None:
            getattr(consumer, "_partition_assignment_strategy")  # noqa: B009  as above
            consumer._partition_assignment_strategy = [self.app.assignor_of_lanes]  # noqa: SLF001
        return consumer

    async def on_start(self) -> None:
        """Create the aiokafka consumer, and listen to what the group tells it."""
        await super().on_start()
        assignor, membership = self.app.assignor_of_lanes, self.app.membership
        if assignor is not None and membership is not None:
            membership.watch(self._ensure_consumer()._coordinator, assignor.forget)  # noqa: SLF001
        self.add_future(join_on(self, self._ensure_consumer()._coordinator))  # noqa: SLF001

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit offsets; tells whether they are. Faust ends its app where a broker is away."""
        consumer = self._ensure_consumer()
        # While it joins, this member's generation is the last one: aiokafka takes the broker's
        # refusal for a throw-out, and joins as another member. What is not committed comes again.
        if consumer._coordinator._heartbeat_task is None:  # noqa: SLF001
            return False
        mine = self.assignment()
        wanted = {
            TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in mine and self.app.may_commit(tp)
        }
        if not wanted:
            return True
        try:
            await consumer.commit(wanted)
        except (CommitFailedError, IllegalStateError) as error:
            # The group has dealt meanwhile: whoever has the partitions now reads on.
            log.warning("offsets are left to others", reason=type(error).__name__, during=KAFKA)
        except (KafkaError, OSError) as error:
            if is_transient(error):
                log.warning("offsets are committed later", reason=repr(error), outage=KAFKA)
            else:
                await self.crash(error)
        else:
            self._known_committed.update((TP(*tp), one.offset) for tp, one in wanted.items())
            return True
        return False

    def join_anew(self) -> None:
        """Let the group deal again, by what this member holds now."""
        self._ensure_consumer()._coordinator.request_rejoin()  # noqa: SLF001

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        let_others_go_first(consumer, records)
        self._handed.update((TP(*tp), of[-1].offset) for tp, of in records.items() if of)
        return records

    async def seek_to_committed_of(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        """Seek these partitions to their committed offsets, to the beginning where there is none.

        Returns the committed offsets, `None` where there is none. Raises `IllegalStateError` if a
        partition is not assigned any more.
        """
        consumer = self._ensure_consumer()
        offsets: Mapping[TP, int] = await self.call_thread(
            consumer.seek_to_committed, *(TopicPartition(*tp) for tp in tps)
        )
        # A partition that was revoked meanwhile begins at its committed offset if it comes back.
        assigned = consumer.assignment()
        not_moved = [tp for tp, offset in offsets.items() if not offset and tp in assigned]
        if not_moved:
            # `seek_to_beginning` would wait for the leaders of all of these, and every partition
            # with it. The fetcher asks for the offset before it fetches from the partition again.
            consumer._fetcher.request_offset_reset(  # noqa: SLF001
                not_moved, OffsetResetStrategy.EARLIEST
            )
        (known := self._known_committed).update(
            (TP(*tp), offset) for tp, offset in offsets.items() if offset is not None
        )
        for tp in not_moved:
            state = consumer._subscription.subscription.assignment.state_value(tp)  # noqa: SLF001
            if (stood_at := known.get(TP(*tp))) is None:
                begins_anywhere(state)
            else:
                begins_at(state, stood_at)
        return offsets

    def gaps(self) -> tuple[OffsetGap, ...]:
        """Give the partitions that could not be read on where they stood, since asked last."""
        return tuple(take_gaps(self._ensure_consumer()))


class CommittedConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """Faust's consumer: committed records only, positions from the app's state where it has any."""

    def _new_consumer_thread(self) -> CommittedConsumerThread:
        return CommittedConsumerThread(
            self, loop=self.loop, thread_loop=self.loop, beacon=self.beacon
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: set[TP] = set()
        self._fetching = asyncio.Lock()

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109  Faust's
    ) -> Mapping[TP, Any]:
        # Faust's set changes while the thread waits with it, and an empty one means "all". What
        # comes of a partition that is not active is thrown away, though its position has moved.
        active = None if active_partitions is None else frozenset(active_partitions)
        timeout = min(timeout, _FETCH_MAX_S)
        if crowded := self._crowded(active):
            active = (frozenset(self.assignment()) if active is None else active) - crowded
            # An agent has work for longer than that when it becomes free for more.
            timeout = min(timeout, _ROOM_WAIT_S)
            if not active:
                await asyncio.sleep(timeout)
                return {}
        async with self._fetching:
            records: Mapping[TP, Any] = await super()._getmany(active, timeout)
            # Before their records are let through.
            read_on = dict(filter(None, [self._pass_over(gap) for gap in self._thread.gaps()]))
        if read_on:
            # Where nothing comes, nothing is acked: each rebalance would find the same gap again.
            await self._commit(read_on)
        return records

    def _pass_over(self, gap: OffsetGap) -> tuple[TP, int] | None:
        """Tell of a gap; gives what is to be committed, `None` if acks are to come first."""
        tp, begins = TP(gap.topic, gap.partition), True
        if gap.is_set_back:
            # Faust silently drops what stands before its offsets, and commits no lower ones.
            for known in (
                self._read_offset,
                self._committed_offset,
                self._acked,
                self._acked_index,
                self._gap,
            ):
                known.pop(tp, None)
        elif gap.is_unknown:
            # Faust takes what comes first for the beginning. To commit that would tell the next
            # owner that nothing comes again.
            begins = False
        elif self._committed_offset.get(tp) == gap.stood_at and not self._acked.get(tp):
            # As after a seek there: Faust would write down each offset that was lost as acked.
            self._read_offset[tp] = self._committed_offset[tp] = gap.read_from
        else:
            begins = False
        self.app.on_gap(gap)
        return (tp, gap.read_from) if begins else None

    def _crowded(self, active: frozenset[TP] | None) -> frozenset[TP]:
        """Give the partitions of agents that have no room for all of one more fetch."""
        buffered_max = self.app.conf.stream_buffer_maxsize - self.app.conf.broker_max_poll_records
        channels = self.app.topics._tp_index  # noqa: SLF001  it has no public way
        return frozenset(
            tp
            for tp in (self.assignment() if active is None else active)
            if any(channel.queue.qsize() > buffered_max for channel in channels.get(tp, ()))
        )

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:  # noqa: ASYNC109  Faust's
        """Wait for the first of these to be done."""
        first, *others = coros
        if asyncio.iscoroutine(first):
            first = eager_start(first)
            if first is None:
                for other in others:
                    if asyncio.iscoroutine(other):
                        other.close()
                return WaitResults([], [], stopped=False)
        return await super().wait_first(first, *others, timeout=timeout)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek each assigned partition to the app's position for it, else to the committed one."""
        async with self._fetching:  # what is fetched from the old position is gone before the seek
            return await self._seek_to_known()

    async def _seek_to_known(self) -> Mapping[TP, int]:
        # Recovery alone seeks changelogs, and may be at it right now: a fetch that a rebalance
        # interrupts asks for this seek too.
        assigned = {tp for tp in self.assignment() if not self._is_changelog_tp(tp)}
        positions = {
            tp: position for tp in assigned if (position := self.app.position_of(tp)) is not None
        }
        offsets: dict[TP, int] = dict(positions)
        if others := assigned - positions.keys():
            offsets.update(await self._thread.seek_to_committed_of(others))
        await self.seek_wait(positions)
        return offsets

    def join_anew(self) -> None:
        """Let the group deal again, by what this member holds now."""
        self._thread.join_anew()

    def answered(self) -> dict[TP, int | None]:
        """Give when brokers last answered for each partition that is fetched now, in ms.

        `None` where none has. What is paused, or fetched and not read yet, is not fetched.
        """
        return dict(self._thread.answered())

    def log_ends(self) -> dict[TP, LogEnd]:
        """Give where the log of each partition ends, as brokers answered last."""
        return dict(self._thread.log_ends())

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume changelogs; hold the others back until the flow is resumed behind their seek."""
        wanted = set(tps)
        held = {tp for tp in wanted if not self._is_changelog_tp(tp)}
        self._held |= held
        super().resume_partitions(wanted - held)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Pause fetching from partitions, also from those held back."""
        paused = set(tps)
        self._held -= paused
        super().pause_partitions(paused)

    def resume_flow(self) -> None:
        """Let records through, and let go of the partitions that were held back."""
        held, self._held = self._held, set()
        super().resume_partitions(held)
        super().resume_flow()

    async def verify_all_partitions_active(self) -> None:
        """Leave it: what Faust would take for a livelock is a partition on which nothing came."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # `offset_to` is the record that came after the gap: it is not acked yet.
        await super()._add_gap(tp, offset_from, offset_to - 1)


class CommittedTransport(AIOKafkaTransport):  # type: ignore[misc]
    """Faust's transport with `CommittedConsumer`."""

    Consumer = CommittedConsumer
