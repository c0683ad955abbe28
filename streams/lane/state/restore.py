"""Restoring a lane: after fencing, the fold of what its predecessors committed.

First what the newest snapshot has; then, of what it does not serve, the history up to where it
begins; last, what came behind it, or the whole window where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import structlog
from aiokafka import TopicPartition

from millstream.schemas.base import Address, Event
from millstream.schemas.errors import HistoryGone, Poison
from millstream.schemas.events import Decision
from millstream.schemas.lane_events import LaneOpened, SnapshotHeader
from millstream.schemas.topics import (
    DECISIONS,
    LANES,
    SESSION_STATES,
    SESSIONS,
    SNAPSHOTS,
    TopicSpec,
)
from millstream.streams.allocation import give_back
from millstream.streams.broker.compacted import refuse_newer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.reading.merging import Span, Turn
from millstream.streams.lane.state.folds import Begin, Refold
from millstream.streams.lane.state.history_gaps import Base, Stretch, removed, up_to
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restoring.logs import Logs, read_event
from millstream.streams.lane.state.snapshot_format import StoredSnapshot, taken_under
from millstream.streams.settings import Settings
from millstream.streams.topic_settings.retention import Retention
from millstream.streams.wire.codec import decode

EventT = TypeVar("EventT", bound=Event)

log = structlog.get_logger(__name__)


class LanesEnded(Protocol):
    """Counts the lanes that a record has ended, over one lane's end."""

    def count(self, source: Address) -> None:
        """Count one more."""

    def given_up(self, source: Address) -> Poison | None:
        """Give why a record is tried no more, `None` as long as it is."""


_OF_SESSIONS = (SESSIONS.name, SESSION_STATES.name)

_DECISIONS_LOOKED_AT = 1000
"""Among so many last offsets the newest decision is looked for: some hold markers only."""


@dataclass(frozen=True, slots=True)
class Restored:
    """How far a restore read.

    `records` in all, `tail_records` of those of logs; `ends` of the logs, by topic without the
    namespace. `snapshot` is the one that was used, `None` if the window was read, and `parts` are
    the parts of this stage's snapshots that stand on the topic, used or not. `refolded` names what
    that snapshot did not serve, and was folded anew: the records read for it are `tail_records`,
    too. `gone` says what was removed behind the snapshot though it may have mattered; a lane serves
    without it.
    """

    records: int
    tail_records: int
    ends: dict[str, int]
    snapshot: SnapshotHeader | None
    parts: frozenset[str]
    refolded: tuple[str, ...] = ()
    gone: tuple[HistoryGone, ...] = ()


async def producers_announced(
    reader: PartitionReader, settings: Settings, *, stage: str, partition: int
) -> int:
    """Give the number of producers that the newest owner announced to write with.

    An owner announces itself by its first transaction, of its first producer. So call it once that
    one is fenced: whoever has announced nothing yet will never write.
    """
    where = TopicPartition(settings.topic(LANES.name), partition)
    producers = 0
    async for record in reader.read(await reader.high_watermarks([where])):
        opened = _own(record, LaneOpened)
        if opened is not None and opened.stage == stage:
            producers = opened.producers
    return producers


async def restore(
    state: LaneState,
    reader: PartitionReader,
    settings: Settings,
    *,
    partition: int,
    now_ms: int,
    upto: Mapping[str, int] | None = None,
    turn: Turn | None = None,
    crash_counter: LanesEnded | None = None,
) -> Restored:
    """Fold partition `partition` of all topics that decide into `state`, which has folded nothing.

    Call it only after the lane's last producer has fenced its predecessor, and once it is known
    since when requests wait unread (`Deferrals.restore`). Raises `LaneLost` if
    an open transaction hides the end for too long, and `LaneOutdated` for a record of a newer
    version: a lane that passed it over would answer again what is answered.

    `upto` gives, by topic without the namespace, the offset up to which it is read, exclusive;
    other topics are read to their high watermark. Restored twice up to the same offsets of all
    topics, a state has one digest (`now_ms` counts only where nothing was decided yet). What was
    removed and may have counted is then `HistoryGone`. A lane that is to serve gives no `upto`:
    it goes on with what stands, since to fail would be to fail for ever, and `Restored.gone` tells.

    `turn` is waited for before each read of the logs: where several lanes are restored at once. A
    snapshot that cannot be taken in ends the lane, since some folds have taken it in by then:
    `crash_counter` counts that, and what it gives up is no snapshot any more.
    """
    topics = state.folds.topics
    at = {
        name: TopicPartition(settings.topic(name), partition)
        for name in (*(one.spec.name for one in topics), SNAPSHOTS.name)
    }
    found = await reader.high_watermarks(at.values())
    ends = {name: found[where] for name, where in at.items()}
    if upto is not None:
        ends |= up_to(upto, {name: (where, found[where]) for name, where in at.items()})
    # The next requests in line came after the newest one decided on, however long ago that was.
    decisions = at[DECISIONS.name]
    newest_ms = await _decided_until_ms(reader, decisions, ends[DECISIONS.name], state.stage)
    times = (now_ms, newest_ms, state.waits_since_ms)
    since_ms = min(one for one in times if one is not None)
    count = 0
    stored = StoredSnapshot(state.stage)
    async for record in reader.read({at[SNAPSHOTS.name]: ends[SNAPSHOTS.name]}):
        count += 1
        stored.take(record)
    log_ends = {spec.name: ends[spec.name] for spec in state.folds.logs}
    state.out_of_order()
    snapshot = stored.header(taken_under(state, settings), log_ends)
    place = stored.header_at(at[SNAPSHOTS.name])
    refolds: tuple[Refold, ...] | None = None
    with _counted(crash_counter, place) as may_load:
        if snapshot is not None and may_load:
            refolds = stored.load(snapshot, state, settings, since_ms=since_ms)
    if snapshot is None or refolds is None:
        snapshot, refolds = None, ()
    read = tuple(Stretch(one, at[one.spec.name], ends[one.spec.name]) for one in topics)
    needed_ms = since_ms - max(settings.dedup_window_s * 1000, state.pipeline.history_ms)
    logs = Logs(reader, at, turn)
    if snapshot is not None and refolds:
        if upto is not None:
            await _require_history(
                reader, read, snapshot, refolds, since_ms=since_ms, retention=settings.retention
            )
        specs = (one.spec for one in topics)
        await logs.fold_anew(refolds, specs, snapshot.logs, since_ms=since_ms)
    begins = None if snapshot is None else snapshot.logs
    heads = await _fold_compacted(state, reader, read, begins)
    # What nobody folds here is not read: a stage may run no agents.
    wanted = [
        one
        for one in read
        if not one.source.spec.compacted and state.folds.hears(one.source.spec.event)
    ]
    await logs.fold(
        ((one.source.spec, _span(one, begins, needed_ms)) for one in wanted), state.restore
    )
    gone = await removed(
        reader,
        read,
        base=None if snapshot is None else Base(snapshot.logs, now_ms - stored.taken_ms),
        needed_ms=needed_ms,
        is_proof_wanted=upto is not None,
        retention=settings.retention,
    )
    state.in_order_of_time()
    starts = await reader.log_start_offsets([at[SESSIONS.name], at[SESSION_STATES.name]])
    state.session_places.forget_before({name: starts[at[name]] for name in _OF_SESSIONS})
    if state.decided_until_ms:  # as after each commit
        since_ms = state.decided_up_to_ms(now_ms)
    state.forget_before(since_ms - settings.dedup_window_s * 1000)
    give_back()
    return Restored(
        records=count + heads.records + logs.records,
        tail_records=heads.of_logs + logs.records,
        ends=log_ends,
        snapshot=snapshot,
        parts=stored.parts,
        refolded=tuple(one.name for one in refolds),
        gone=gone,
    )


@contextmanager
def _counted(crash_counter: LanesEnded | None, place: Address) -> Iterator[bool]:
    """Count a snapshot that cannot be taken in; give whether it is to be tried."""
    given_up = None if crash_counter is None else crash_counter.given_up(place)
    if given_up is not None:
        log.error("a snapshot is used no more", source=str(place), reason=str(given_up))
    try:
        yield given_up is None
    except Exception:
        if crash_counter is not None:
            crash_counter.count(place)
        raise


class _Read(NamedTuple):
    records: int
    of_logs: int


async def _fold_compacted(
    state: LaneState,
    reader: PartitionReader,
    read: tuple[Stretch, ...],
    begins: Mapping[str, int] | None,
) -> _Read:
    """Fold the compacted topics, one after the other: a session's state may take back its head."""
    records = of_logs = 0
    for one in read:
        spec = one.source.spec
        if not spec.compacted:
            continue
        from_offset = None if begins is None else begins.get(spec.name)
        async for record in reader.read({one.where: one.end}, from_offset=from_offset):
            records += 1
            of_logs += one.source.begin is not Begin.WHOLE
            fold_record(state, record, spec)
    return _Read(records, of_logs)


def _span(one: Stretch, begins: Mapping[str, int] | None, needed_ms: int) -> Span:
    """Give what is to be read of a log: behind the snapshot, else of the window or all of it."""
    if begins is not None:
        return Span(one.where, one.end, begins[one.source.spec.name])
    since_ms = needed_ms if one.source.begin is Begin.WINDOW else None
    return Span(one.where, one.end, since_ms=since_ms)


async def _require_history(
    reader: PartitionReader,
    read: tuple[Stretch, ...],
    snapshot: SnapshotHeader,
    refolds: tuple[Refold, ...],
    *,
    since_ms: int,
    retention: Retention,
) -> None:
    """Raise `HistoryGone` where what is to be folded anew was removed from the logs."""
    for refold in refolds:
        stretches = (
            replace(one, end=snapshot.logs[one.source.spec.name])
            for one in read
            if one.source.spec.event in refold.fold
        )
        await removed(
            reader,
            tuple(stretches),
            base=None,
            needed_ms=since_ms - refold.history_ms,
            is_proof_wanted=True,
            retention=retention,
        )


async def _decided_until_ms(
    reader: PartitionReader, decisions: TopicPartition, end: int, stage: str
) -> int | None:
    """Give the time of the newest request among the last that were decided on.

    Not when its decision was committed: after a stop, requests are decided on long after they came.
    Those of `stage`, if it made any of the last decisions; another one may be far ahead.
    """
    times: dict[str, int] = {}
    async for record in reader.read({decisions: end}, from_offset=end - _DECISIONS_LOOKED_AT):
        decision = _own(record, Decision)
        if decision is not None:
            times[decision.stage] = max(decision.at_ms, times.get(decision.stage, 0))
    return times.get(stage, max(times.values(), default=None))


def _own(record: Any, event_type: type[EventT]) -> EventT | None:
    """Read a record that a lane wrote, `None` for a foreign one; `LaneOutdated` for a newer one."""
    try:
        return decode(record, event_type)
    except Poison as poison:
        refuse_newer(record, poison)
        return None


def fold_record(state: LaneState, record: Any, spec: TopicSpec) -> None:
    """Fold one record that was read back. Raises `LaneOutdated` for one of a newer version."""
    event = read_event(record, spec.event)
    if event is not None:
        state.restore(event, record.offset)
