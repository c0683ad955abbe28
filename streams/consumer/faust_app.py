"""A Faust app inside our own event loop, with Faust's defaults that lose or double records changed.

No Faust worker or command line: `await app.start()` and `await stop_app(app)`. Several apps live
side by side in one process. What differs from a plain `faust.App`, and why:

- Its consumer is ours (`faust_consumer.py`).
- Keys and values stay bytes: a decode error inside Faust acks the record and goes unseen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import faust
import structlog
from faust.types import TP

from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import RECORD_BYTES_MAX
from millstream.streams.broker.clients import connecting
from millstream.streams.consumer.faust_consumer import CommittedTransport
from millstream.streams.consumer.offset_gaps import OffsetGap, tell_gap
from millstream.streams.telemetry.causes import is_transient
from millstream.streams.telemetry.outages import KAFKA

if TYPE_CHECKING:
    from millstream.streams.consumer.assignor import LaneAssignor
    from millstream.streams.consumer.membership import Membership
    from millstream.streams.settings import Settings

PositionOf = Callable[[TP], int | None]
"""Gives the offset to read a partition from, `None` where the committed offset is right."""

STOP_TIMEOUT_S = 10.0

_COMMIT_INTERVAL_S = 0.5
_POLL_RECORDS_MAX = 1000
_BUFFERED_RECORDS_MAX = 4 * _POLL_RECORDS_MAX
_PRODUCER_TIMEOUT_S = 60.0
_METADATA_MAX_AGE_MS = 30_000
_HEARTBEATS_PER_SESSION = 5
# A member learns from its next heartbeat that the group deals anew, so all wait for the slowest.
_HEARTBEAT_MAX_S = 0.5
_REQUEST_TIMEOUT_MIN_S = 40.0

_log = logging.getLogger(__name__)
log = structlog.get_logger(__name__)


class App(faust.App):  # type: ignore[misc]
    """A Faust app; set `position_of` before `start` if its state carries offsets.

    So with `assignor_of_lanes` and `membership`, where partitions belong to lanes.
    """

    position_of: PositionOf = staticmethod(lambda _tp: None)
    on_gap: Callable[[OffsetGap], None] = staticmethod(tell_gap)
    may_commit: Callable[[TP], bool] = staticmethod(lambda _tp: True)

    assignor_of_lanes: LaneAssignor | None = None
    membership: Membership | None = None

    _failure: BaseException | None = None

    @property
    def failure(self) -> BaseException | None:
        """What crashed the app, `None` while it runs; a crashed app is stopped and built anew."""
        return self._failure or (self.crash_reason if self.crashed else None)

    def fail(self, error: BaseException) -> None:
        """Say that the app's state is not to be trusted any more; the first error stands."""
        if self._failure is None:
            self._failure = error
            if is_transient(error):  # a traceback says nothing more
                log.warning("a part failed", part=self.conf.id, reason=repr(error), outage=KAFKA)
            else:
                log.error("a part failed", part=self.conf.id, exc_info=error)

    def answered(self) -> dict[TP, int | None]:
        """Give when brokers last answered for each partition that is fetched now."""
        answered: dict[TP, int | None] = self.consumer.answered()
        return answered

    def lacks(self, topics: Iterable[str]) -> str | None:
        """Say which of these topics brokers do not have, as one that was deleted; `None`: all."""
        consumer = self.consumer._thread._consumer  # noqa: SLF001  it has no public way
        if consumer is None:
            return None
        known = consumer._client.cluster  # noqa: SLF001
        missing = sorted(topic for topic in topics if not known.partitions_for_topic(topic))
        if not missing:
            return None
        advice = "`millstream topics --create` creates what is missing"
        return f"brokers have no topic {', '.join(missing)}: {advice}"

    def on_init_dependencies(self) -> Any:
        """Do without Faust's monitor: it counts each record four times, and nobody asks it."""
        dependencies = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return dependencies

    def on_rebalance_start(self) -> None:
        """Note that the group deals anew."""
        super().on_rebalance_start()
        # Without a sensor it is empty, which Faust warns of.
        self._rebalancing_sensor_state: dict[Any, Any] = {None: {}}

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        # Faust acks the record and goes on behind it: a state that missed one is not to be trusted.
        self.fail(exc)
        await super()._on_agent_error(agent, exc)

    def _create_directories(self) -> None:
        try:
            self.conf.datadir.mkdir(parents=True, exist_ok=True)
            super()._create_directories()
        except OSError as error:
            message = f"MILLSTREAM_DATA_DIR: the folder cannot be written ({error})"
            raise Misconfigured(message) from error

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
        # It reaches each connection, as with other clients: `clients.connecting`.
        ssl_context=connecting(settings)["ssl_context"],
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
        broker_heartbeat_interval=min(
            settings.session_timeout_s / _HEARTBEATS_PER_SESSION, _HEARTBEAT_MAX_S
        ),
        broker_request_timeout=max(_REQUEST_TIMEOUT_MIN_S, settings.session_timeout_s + 1),
        # Above a poll's records, or a full buffer of one agent holds up every other.
        stream_buffer_maxsize=_BUFFERED_RECORDS_MAX,
        # It waits for events in flight without a time-out.
        stream_wait_empty=False,
        # Off, its compiled stream waits for each record, also for one that is there.
        cython_optimizations=True,
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
    """Stop an app from outside its agents; tells whether it ended well within `timeout_s`.

    Stopping from inside an agent waits for that very agent. An app that does not end in time, as
    where no broker answers, or that ends with an error is given up, and the log says why: its
    partitions go to others when the session times out, and what it had not committed comes again.
    That no broker answers is told at level info: whoever stops apps knows it by what this gives.
    """
    stopping = asyncio.ensure_future(app.stop())
    try:
        await asyncio.wait({stopping}, timeout=timeout_s)
    finally:  # also where whoever stops it waits no longer
        if not stopping.done():
            give_up(app)
            # Not awaited: Faust takes the cancel for the end of one child, and goes on to the next.
            stopping.cancel()
            stopping.add_done_callback(lambda task: task.cancelled() or task.exception())
    if not stopping.done():
        _log.info("%s did not stop within %.0f s: abandoned", app.conf.id, timeout_s)
        return False
    if error := stopping.exception():
        if is_transient(error):
            _log.info("%s did not stop cleanly: %r", app.conf.id, error)
        else:
            _log.error("%s did not stop cleanly: %r", app.conf.id, error, exc_info=error)
        return False
    return True


def give_up(app: App) -> None:
    """Have an app's agents end with their loop: Faust takes a cancel of others for a crash."""
    for agent in app.agents.values():
        agent._stopped_set()  # noqa: SLF001  its `stop` waits for the agent


def assigned_partitions(app: App, topic: str) -> Iterator[int]:
    """Give the partitions of `topic` that this app reads now."""
    return (tp.partition for tp in app.consumer.assignment() if tp.topic == topic)
