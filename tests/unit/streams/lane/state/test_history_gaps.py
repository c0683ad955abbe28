"""What retention and compaction take: silent where it decides nothing, named where it may have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from millstream.schemas.errors import HistoryGone
from millstream.schemas.events import SessionUpdated
from millstream.schemas.topics import (
    DEAD_LETTERS,
    DECISIONS,
    LANES,
    OBEYED,
    RESULTS,
    SESSIONS,
    SNAPSHOTS,
    TopicSpec,
)
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.reading.merging import Span
from tests import making
from tests.harness.deployment import Deployment

pytestmark = pytest.mark.promise("P8")

DAY_MS = 86_400_000


def deployment() -> Deployment:
    return Deployment(1, snapshot_records=1_000_000)


async def play(deployed: Deployment, *, snapshot: bool = False, steps: int = 60) -> dict[str, str]:
    """Have a lane decide and end runs, all of them; gives the digests that it had in the end."""
    async with deployed.lane() as lane:
        await lane.play(deployed.chance, steps, deployed.clock)
        for request_id in sorted(lane.open):
            lane.end(request_id, tokens=1, at_ms=deployed.clock())
        await lane.settled()
        if snapshot:
            await lane.snapshots.close(20)
        return lane.state.digests()


def offsets(deployed: Deployment, spec: TopicSpec) -> list[int]:
    return [one.offset for one in deployed.records(spec)]


def delete_before(deployed: Deployment, spec: TopicSpec, offset: int) -> None:
    deployed.delete_before(spec, offset)


def head(session_id: str, turn: int) -> SessionUpdated:
    return making.head(turn, session_id=session_id, at_ms=1)


async def test_records_that_retention_removed_from_before_the_window_are_not_missed() -> None:
    deployed = deployment()
    await play(deployed)
    old = {spec: offsets(deployed, spec)[-1] + 1 for spec in (DECISIONS, RESULTS)}
    deployed.clock.tick(3 * DAY_MS)
    await play(deployed)
    deployed.clock.tick(3 * DAY_MS)
    live = await play(deployed)
    for spec, offset in old.items():
        delete_before(deployed, spec, offset)
    state, restored = await deployed.restored(upto=deployed.ends())
    assert restored.snapshot is None
    assert state.digests() == live


@pytest.mark.parametrize("spec", [DECISIONS, RESULTS], ids=lambda spec: spec.name)
async def test_records_that_were_deleted_from_the_window_are_named(spec: TopicSpec) -> None:
    deployed = deployment()
    await play(deployed)
    deleted = offsets(deployed, spec)[20]
    delete_before(deployed, spec, deleted)
    with pytest.raises(HistoryGone, match="those of the window may be among them") as gone:
        await deployed.restored(upto=deployed.ends())
    where = (gone.value.topic, gone.value.partition, gone.value.wanted, gone.value.oldest)
    assert where == (deployed.settings.topic(spec.name), 0, 0, deleted)


async def test_a_lane_that_is_to_serve_goes_on_with_what_stands() -> None:
    deployed = deployment()
    await play(deployed)
    delete_before(deployed, RESULTS, offsets(deployed, RESULTS)[10])
    state, restored = await deployed.restored()
    assert restored.gone == ()
    assert len(state.seen) > 0


async def test_what_was_deleted_behind_a_snapshot_is_told_and_does_not_stop_a_lane() -> None:
    """As KAFKA-7443: a checkpoint older than the changelog's begin must not be a loop of failures.

    There the restore consumer was out of range again and again.
    """
    deployed = deployment()
    await play(deployed, snapshot=True)
    position = deployed.ends()[RESULTS.name]
    await play(deployed)
    behind = [offset for offset in offsets(deployed, RESULTS) if offset > position]
    delete_before(deployed, RESULTS, behind[3])
    _, restored = await deployed.restored()
    assert restored.snapshot is not None
    (gone,) = restored.gone
    assert gone.topic == deployed.settings.topic(RESULTS.name)
    assert gone.wanted == restored.snapshot.logs[RESULTS.name] <= position < gone.oldest
    assert gone.oldest == behind[3]
    with pytest.raises(HistoryGone, match="behind the snapshot may be among them"):
        await deployed.restored(upto=deployed.ends())
    async with deployed.lane() as lane:  # it serves all the same
        assert lane.restored.gone != ()
        lane.ask("new", "ada", deployed.clock.tick(1))
        await lane.settled()
        await lane.snapshots.close(20)
    _, restored = await deployed.restored()
    assert restored.gone == ()  # its own snapshot knows what stands


async def test_what_retention_removed_behind_a_snapshot_of_long_ago_is_no_gap() -> None:
    deployed = deployment()
    await play(deployed, snapshot=True)
    await play(deployed)
    deployed.clock.tick(8 * DAY_MS)
    for spec in (DECISIONS, RESULTS):
        delete_before(deployed, spec, deployed.ends()[spec.name])
    state, restored = await deployed.restored()
    assert restored.snapshot is not None
    assert restored.gone == ()
    # What was decided so long ago is the newest of all: its ids count for what comes next.
    assert len(state.seen) > 0


async def test_a_log_that_retention_emptied_is_restored() -> None:
    """As Faust 597: a partition whose begin is its end, at an offset above 0, has nothing to read.

    There recovery asked for the record before the end, which is not there.
    """
    deployed = deployment()
    live = await play(deployed, snapshot=True)
    for spec in (DECISIONS, RESULTS):
        delete_before(deployed, spec, deployed.end(spec))
        assert offsets(deployed, spec) == []
    state, restored = await deployed.restored(upto=deployed.ends())
    assert (restored.tail_records, restored.gone) == (0, ())
    assert state.digests() == live


async def test_a_compacted_log_that_does_not_begin_at_0_is_restored() -> None:
    """As Faust 176 and responsive-pub 249: of a compacted changelog the first record is gone."""
    deployed = deployment()
    async with deployed.lane() as lane:
        for turn in range(1, 6):
            await lane.writer.commit([head("s", turn), head(f"t{turn}", 1)])
        live = lane.state.digests()
    deployed.compact(SESSIONS)
    deployed.compact(LANES)
    assert offsets(deployed, SESSIONS)[0] > 0
    state, _ = await deployed.restored(upto=deployed.ends())
    assert state.digests() == live


async def test_as_of_an_offset_a_compacted_topic_is_read_until_it_is_compacted() -> None:
    deployed = deployment()
    async with deployed.lane() as lane:
        await lane.writer.commit([head("s", 1)])
        ends, live = deployed.ends(), lane.state.digests()
        await lane.writer.commit([head("s", 2), head("t", 1)])
    state, _ = await deployed.restored(upto=ends)
    assert state.digests() == live
    deployed.compact(SESSIONS)
    with pytest.raises(HistoryGone, match="compacted away") as gone:
        await deployed.restored(upto=ends)
    assert gone.value.topic == deployed.settings.topic(SESSIONS.name)
    assert (gone.value.wanted, gone.value.oldest) == (
        ends[SESSIONS.name],
        offsets(deployed, SESSIONS)[0],
    )


async def test_compaction_that_took_nothing_from_before_an_offset_is_no_gap() -> None:
    deployed = deployment()
    async with deployed.lane() as lane:
        await lane.writer.commit([head("s", 1)])
        await lane.writer.commit([head("s", 2)])
        ends, live = deployed.ends(), lane.state.digests()
        await lane.writer.commit([head("t", 1)])  # its first one: nothing of it stood before
    deployed.compact(SESSIONS)
    state, _ = await deployed.restored(upto=ends)
    assert state.digests() == live


@pytest.mark.parametrize("age_days", [0, 29, 31])
async def test_heads_that_retention_removed_are_missed_where_they_counted(age_days: int) -> None:
    deployed = deployment()
    async with deployed.lane() as lane:
        await lane.writer.commit([head("old", 1)])
        await lane.writer.commit([head("stands", 1)])
        deployed.clock.tick(age_days * DAY_MS + 1)
        await lane.writer.commit([head("new", 1)])
        ends = deployed.ends()
        await lane.writer.commit([head("newer", 1)])
    delete_before(deployed, SESSIONS, offsets(deployed, SESSIONS)[1])
    if age_days > 30:
        state, _ = await deployed.restored(upto=ends)
        assert not state.knows(("default", "ada", "newer"))
    else:
        with pytest.raises(HistoryGone, match="may have been removed"):
            await deployed.restored(upto=ends)
    # Up to the end: a head of no use is gone in time.
    assert (await deployed.restored(upto=deployed.ends()))[1].gone == ()


async def test_owners_that_were_deleted_are_missed() -> None:
    deployed = deployment()
    await play(deployed)
    delete_before(deployed, LANES, deployed.ends()[LANES.name])
    with pytest.raises(HistoryGone, match="may have been removed"):
        await deployed.restored(upto=deployed.ends())


async def test_a_foreign_record_on_a_compacted_topic_hides_nothing() -> None:
    deployed = deployment()
    async with deployed.lane() as lane:
        await lane.writer.commit([head("s", 1)])
        ends, live = deployed.ends(), lane.state.digests()
    deployed.broker.append(deployed.where(SESSIONS), b"foreign", b"no json")
    assert (await deployed.restored(upto=ends))[0].digests() == live


async def test_a_key_that_was_forgotten_since_is_not_known_as_of_before() -> None:
    deployed = deployment()
    async with deployed.lane() as lane:
        await lane.writer.commit([head("s", 1)])
        ends = deployed.ends()
    (gone_head,) = deployed.records(SESSIONS)
    deployed.broker.append(deployed.where(SESSIONS), gone_head.key, None)
    deployed.compact(SESSIONS)
    with pytest.raises(HistoryGone, match="compacted away"):
        await deployed.restored(upto=ends)


async def test_the_generation_as_of_an_offset_is_not_taken_from_a_later_owner() -> None:
    deployed = deployment()
    await play(deployed)
    ends = deployed.ends()
    await play(deployed)
    assert (await deployed.restored(upto=ends))[0].generation == 1
    deployed.compact(LANES)
    with pytest.raises(HistoryGone, match="compacted away"):
        await deployed.restored(upto=ends)


async def test_an_offset_behind_the_logs_end_is_named() -> None:
    """As Faust 158: what was noted is more than the log has, for it was truncated."""
    deployed = deployment()
    await play(deployed)
    ends = deployed.ends()
    beyond = ends | {DECISIONS.name: ends[DECISIONS.name] + 1}
    with pytest.raises(HistoryGone, match="the log ends at") as gone:
        await deployed.restored(upto=beyond)
    assert gone.value.wanted == ends[DECISIONS.name] + 1


async def test_what_is_asked_for_from_before_the_logs_beginning_is_named() -> None:
    deployed = deployment()
    await play(deployed)
    ends = deployed.ends()
    await play(deployed)
    delete_before(deployed, DECISIONS, ends[DECISIONS.name] + 1)
    with pytest.raises(HistoryGone):
        await deployed.restored(upto=ends)


class DeletingReader(PartitionReader):
    """A reader whose log loses records while it is read."""

    def __init__(self, deployed: Deployment, spec: TopicSpec, offset: int) -> None:
        super().__init__(deployed.settings, deployed.clients)
        self._lose = lambda: delete_before(deployed, spec, offset)
        self._topic = deployed.settings.topic(spec.name)

    async def read_in_order(self, spans: Sequence[Span], **how: Any) -> AsyncGenerator[list[Any]]:
        if any(one.where.topic == self._topic for one in spans):
            self._lose()
        async for batch in super().read_in_order(spans, **how):
            yield batch


async def test_records_that_are_deleted_while_they_are_read_are_named() -> None:
    """As Faust 651: retention removed segments during a recovery, which went on behind them."""
    deployed = deployment()
    await play(deployed)
    ends = deployed.ends()
    lost = offsets(deployed, RESULTS)[5]
    deployed.make_reader = lambda: DeletingReader(deployed, RESULTS, lost)
    with pytest.raises(HistoryGone) as gone:
        await deployed.restored(upto=ends)
    assert gone.value.oldest == lost


async def test_a_log_that_is_kept_for_as_long_as_it_counts_may_begin_anywhere() -> None:
    deployed = deployment()
    await play(deployed, steps=200)
    assert len(offsets(deployed, OBEYED)) > 3
    delete_before(deployed, OBEYED, offsets(deployed, OBEYED)[2])
    assert offsets(deployed, DEAD_LETTERS) == []
    _, restored = await deployed.restored(upto=deployed.ends())
    assert restored.gone == ()


async def test_offsets_of_other_topics_say_nothing() -> None:
    deployed = deployment()
    live = await play(deployed)
    state, _ = await deployed.restored(upto={"tokens": 10**9, SNAPSHOTS.name: 0})
    assert state.digests() == live
