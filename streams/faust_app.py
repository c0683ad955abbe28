"""A Faust app inside our own event loop, with Faust's defaults that lose or double records changed.

No Faust worker or command line: `await app.start()` and `await stop_app(app)`. Several apps live
side by side in one process. What differs from a plain `faust.App`, and why:

- Consumers read `read_committed`. Faust asks for that only under `exactly_once`, which must stay
  off: it derives the transactional id from the output partition and swallows begin errors.
- A gap of offsets (transaction markers, aborted records) no longer counts the record behind it
  as acked: Faust's interval includes that record, and so commits past one in flight.
- An app may say where each partition is to be read from (`position_of`), for state that carries its
  own offsets. Faust alone would trust the committed offset, also where the state is older.
- Records are let through only behind the seek. Once tables are restored, Faust resumes partitions,
  then seeks them, then clears the queues of all agents: what came in between is gone.
- Keys and values stay bytes: a decode error inside Faust acks the record and goes unseen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import faust
from aiokafka import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as AIOKafkaConsumer
from faust.transport.drivers.aiokafka import Transport as AIOKafkaTransport
from faust.types import TP

from schemas.topics import RECORD_BYTES_MAX
from streams.tolerant_records import tolerate_header_names

if TYPE_CHECKING:
    from streams.settings import Settings

PositionOf = Callable[[TP], int | None]
"""Gives the offset to read a partition from, `None` where the committed offset is right."""

STOP_TIMEOUT_S = 10.0

_COMMIT_INTERVAL_S = 0.5
_POLL_RECORDS_MAX = 1000
_BUFFERED_RECORDS_MAX = 4 * _POLL_RECORDS_MAX
_PRODUCER_TIMEOUT_S = 60.0
_FETCH_WAIT_MS = 100
# A seek waits for the fetch under way, so a fetch without records must be short.
_FETCH_MAX_S = 0.2
_METADATA_MAX_AGE_MS = 30_000
_HEARTBEATS_PER_SESSION = 5
_REQUEST_TIMEOUT_MIN_S = 40.0

_log = logging.getLogger(__name__)


class CommittedConsumerThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that holds the aiokafka consumer."""

    def _create_worker_consumer(self, transport: AIOKafkaTransport) -> Any:
        tolerate_header_names()
        consumer = super()._create_worker_consumer(transport)
        # Both are read at `start()`, which comes later. Faust hard-wires them; a rename in aiokafka
        # must fail here, not fall back to reading aborted records.
        for name in ("_isolation_level", "_fetch_max_wait_ms"):
            getattr(consumer, name)
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    async def seek_to_committed_of(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        """Seek these partitions to their committed offsets."""
        offsets: Mapping[TP, int] = await self.call_thread(
            self._ensure_consumer().seek_to_committed, *(TopicPartition(*tp) for tp in tps)
        )
        return offsets


class CommittedConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """Faust's consumer: committed records only, positions from the app's state where it has any."""

    def _new_consumer_thread(self) -> CommittedConsumerThread:
        return CommittedConsumerThread(self, loop=self.loop, beacon=self.beacon)

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
        async with self._fetching:
            records: Mapping[TP, Any] = await super()._getmany(active, min(timeout, _FETCH_MAX_S))
            return records

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

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # `offset_to` is the record that came after the gap: it is not acked yet.
        await super()._add_gap(tp, offset_from, offset_to - 1)


class CommittedTransport(AIOKafkaTransport):  # type: ignore[misc]
    """Faust's transport with `CommittedConsumer`."""

    Consumer = CommittedConsumer


class App(faust.App):  # type: ignore[misc]
    """A Faust app; set `position_of` before `start` if its state carries offsets."""

    position_of: PositionOf = staticmethod(lambda _tp: None)

    _failure: BaseException | None = None

    @property
    def failure(self) -> BaseException | None:
        """What crashed the app, `None` while it runs; a crashed app is stopped and built anew."""
        return self._failure or (self.crash_reason if self.crashed else None)

    def fail(self, error: BaseException) -> None:
        """Say that the app's state is not to be trusted any more; the first error stands."""
        if self._failure is None:
            self._failure = error
            _log.error("%s failed: %r", self.conf.id, error, exc_info=error)

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        # Faust acks the record and goes on behind it: a state that missed one is not to be trusted.
        self.fail(exc)
        await super()._on_agent_error(agent, exc)

    def _create_directories(self) -> None:
        self.conf.datadir.mkdir(parents=True, exist_ok=True)
        super()._create_directories()

    def _new_transport(self) -> CommittedTransport:
        return CommittedTransport(self.conf.broker_consumer, self)

    def raw_topic(self, name: str) -> Any:
        """Give a topic whose keys and values are bytes; it must exist, Faust never creates it."""
        return self.topic(
            name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )


def build_app(
    settings: Settings, name: str, *, loop: asyncio.AbstractEventLoop | None = None
) -> App:
    """Build an app whose consumer group is `<namespace>-<name>`; nothing is started.

    Its event loop is the one it is started in, unless `loop` is given.
    """
    return App(
        f"{settings.namespace}-{name}",
        loop=loop,
        broker=[f"kafka://{address.strip()}" for address in settings.kafka.split(",")],
        datadir=settings.data_dir / "faust" / name,
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        web_tables_enabled=False,
        key_serializer="raw",
        value_serializer="raw",
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=_METADATA_MAX_AGE_MS,
        broker_commit_interval=_COMMIT_INTERVAL_S,
        broker_max_poll_records=_POLL_RECORDS_MAX,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / _HEARTBEATS_PER_SESSION,
        broker_request_timeout=max(_REQUEST_TIMEOUT_MIN_S, settings.session_timeout_s + 1),
        # Above a poll's records, or a full buffer of one agent holds up every other.
        stream_buffer_maxsize=_BUFFERED_RECORDS_MAX,
        # It waits for events in flight without a time-out.
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        producer_request_timeout=_PRODUCER_TIMEOUT_S,
        producer_metadata_max_age_ms=_METADATA_MAX_AGE_MS,
        producer_max_request_size=RECORD_BYTES_MAX,
        topic_partitions=settings.partitions,
        # `topic_admin` creates topics: Faust would give a changelog one replica.
        topic_allow_declare=False,
        topic_disable_leader=True,
    )


async def stop_app(app: App, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop an app from outside its agents; tells whether it ended within `timeout_s`.

    Stopping from inside an agent waits for that very agent. What does not end in time is
    cancelled: its partitions go to others when the session times out.
    """
    stopping = asyncio.ensure_future(app.stop())
    done, _ = await asyncio.wait({stopping}, timeout=timeout_s)
    if done:
        stopping.result()
        return True
    _log.error("%s did not stop within %.0f s: abandoned", app.conf.id, timeout_s)
    stopping.cancel()
    with suppress(asyncio.CancelledError):
        await stopping
    return False


def assigned_partitions(app: App, topic: str) -> Iterator[int]:
    """Give the partitions of `topic` that this app reads now."""
    return (tp.partition for tp in app.consumer.assignment() if tp.topic == topic)
