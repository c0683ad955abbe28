"""What a lane remembers is a list: what is added to it is folded, kept and compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from millstream.schemas.base import Event
from millstream.schemas.events import AgentResult, CheckpointSaved, Decision, SessionUpdated
from millstream.schemas.topics import CHECKPOINTS, DECISIONS, RESULTS, SESSIONS
from millstream.streams.lane.state.folds import (
    Begin,
    Fold,
    FoldList,
    SnapshotBody,
    Source,
    digest_of,
)
from tests import making
from tests.harness.deployment import Deployment
from tests.harness.writing_lane import new_state


def turns() -> tuple[Fold, ...]:
    """Remember how many checkpoints each session has: all that there is to say of it."""
    counts: Counter[str] = Counter()

    def count(saved: CheckpointSaved) -> None:
        counts[saved.session_id] += 1

    def load(body: SnapshotBody) -> None:
        counts.update(body.entries["turns"])

    return (
        Fold(
            name="turns",
            topics=(Source(CHECKPOINTS, Begin.LOG),),
            fold={CheckpointSaved: count},
            entries=("turns",),
            state=lambda: {"turns": dict(counts)},
            load=load,
            canonical=lambda: dict(counts),
        ),
    )


def saved(session: str, number: int) -> CheckpointSaved:
    return making.checkpoint(
        request_id=f"r{number}", session_id=session, checkpoint_id=f"c{number}", data="x"
    )


async def test_a_fold_that_is_added_to_the_list_needs_no_other_change() -> None:
    deployment = Deployment(1, snapshot_records=1_000_000, more=turns)
    empty = new_state(deployment.settings, None, turns).digests()["turns"]
    async with deployment.lane() as lane:
        await lane.play(deployment.chance, 100, deployment.clock)
        await lane.writer.commit([saved("s", 1), saved("t", 2)])
        await lane.settled()
        before_snapshot = lane.state.digests()
        assert before_snapshot["turns"] != empty
        of_topics, restored = await deployment.restored()
        assert restored.snapshot is None
        assert of_topics.digests() == before_snapshot
        await lane.snapshots.close(20)
        of_snapshot, restored = await deployment.restored()
        assert (restored.tail_records, of_snapshot.digests()) == (0, before_snapshot)
        await lane.writer.commit([saved("s", 3)])
        live = lane.state.digests()
    of_snapshot_and_tail, restored = await deployment.restored()
    assert restored.snapshot is not None
    assert restored.tail_records == 1
    assert of_snapshot_and_tail.digests() == live
    assert live["turns"] != before_snapshot["turns"]


async def test_a_snapshot_from_before_a_fold_was_added_is_not_used() -> None:
    deployment = Deployment(2, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        await lane.writer.commit([saved("s", 1)])
        lane.ask("r1", "ada", deployment.clock())
        await lane.settled()
        await lane.snapshots.close(20)
    deployment.more = turns
    state, restored = await deployment.restored()
    assert restored.snapshot is None
    (fold,) = (one for one in state.folds.folds if one.name == "turns")
    assert fold.canonical() == {"s": 1}


async def test_a_fold_of_a_log_that_is_read_already_is_not_loaded_from_an_older_snapshot() -> None:
    deployment = Deployment(3, snapshot_records=1_000_000)
    async with deployment.lane() as lane:
        lane.ask("r1", "ada", deployment.clock())
        lane.end("r1", tokens=1, at_ms=deployment.clock())
        await lane.settled()
        await lane.snapshots.close(20)
    ended: list[str] = []
    deployment.more = lambda: (fold("ended", RESULTS, entries=("ended",), into=ended),)
    _, restored = await deployment.restored()
    assert restored.snapshot is None
    assert ended == ["r1"]


def fold(
    name: str,
    *topics: Any,
    begin: Begin = Begin.WINDOW,
    entries: tuple[str, ...] = (),
    into: list[str] | None = None,
) -> Fold:
    found = [] if into is None else into

    def end(result: AgentResult) -> None:
        found.append(result.request_id)

    return Fold(
        name=name,
        topics=tuple(Source(spec, begin) for spec in topics),
        fold={AgentResult: end},
        entries=entries,
        canonical=lambda: found,
    )


def test_topics_are_read_once_and_compacted_ones_first() -> None:
    folds = FoldList(
        (
            fold("a", DECISIONS, RESULTS),
            fold("b", SESSIONS, begin=Begin.WHOLE),
            fold("c", RESULTS, begin=Begin.LOG),
        )
    )
    assert [(one.spec, one.begin) for one in folds.topics] == [
        (SESSIONS, Begin.WHOLE),
        (DECISIONS, Begin.WINDOW),
        (RESULTS, Begin.LOG),
    ]
    assert folds.logs == (DECISIONS, RESULTS)


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ((fold("a"), fold("a")), "share a name"),
        ((fold("a", entries=("x",)), fold("b", entries=("x",))), "share a name"),
        ((fold("a", DECISIONS, RESULTS), fold("b", RESULTS, DECISIONS)), "another order"),
        ((fold("a", SESSIONS), fold("b", SESSIONS, begin=Begin.WHOLE)), "reads it whole"),
    ],
)
def test_folds_that_contradict_each_other_are_refused(others: tuple[Fold, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FoldList(others)


def test_an_event_goes_to_the_folds_that_name_its_type_and_to_no_others() -> None:
    folds = FoldList((fold("a", RESULTS), fold("b", DECISIONS)))
    kinds: set[type[Event]] = {AgentResult}
    assert set(folds.on_commit) == kinds
    assert len(folds.on_commit[AgentResult]) == 2
    assert Decision not in folds.on_restore
    assert SessionUpdated not in folds.on_restore


def test_a_digest_does_not_depend_on_the_order_of_names() -> None:
    assert digest_of({"a": "1", "b": "2"}) == digest_of({"b": "2", "a": "1"})
    assert digest_of({"a": "1", "b": "2"}) != digest_of({"a": "2", "b": "1"})
