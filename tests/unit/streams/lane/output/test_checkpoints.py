"""Only the very checkpoint that the session's head names is given, from the nearest place."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.checkpoint_cache import OBJECT_BYTES, CheckpointCache
from millstream.streams.lane.output.checkpoints import CheckpointSource
from millstream.streams.lane.output.outcomes import session_head
from millstream.streams.settings import Settings
from tests import making

pytestmark = pytest.mark.promise("P6")


def saved(turn: int, *, session: str = "s", size: int = 4) -> CheckpointSaved:
    return making.checkpoint(turn, session_id=session, data="x" * size)


def head_of(checkpoint: CheckpointSaved) -> SessionUpdated:
    return session_head(checkpoint, None, offset_min=0)


class View:
    """A view that holds one checkpoint per session, perhaps an old one; counts who asks."""

    def __init__(self, *held: CheckpointSaved) -> None:
        self._held = {one.session_id: one for one in held}
        self.asked = 0

    async def peek(self, _tenant: str, _user: str, session: str) -> CheckpointSaved | None:
        self.asked += 1
        return self._held.get(session)


TWO = 2 * OBJECT_BYTES + 100
"""Room for two checkpoints whose data is of 100 bytes together."""


def source(view: View, *, bytes_max: int = TWO) -> CheckpointSource:
    # The reader is never started: where the log were asked, it would say so.
    return CheckpointSource(
        reader=PartitionReader(Settings()),
        partition=TopicPartition("checkpoints", 0),
        peek=view.peek,
        cached=CheckpointCache(bytes_max=bytes_max).of_lane(),
    )


async def test_what_was_just_committed_is_given_from_memory() -> None:
    view = View()
    checkpoints = source(view)
    checkpoints.keep(saved(1))
    assert await checkpoints.load(head_of(saved(1))) == saved(1)
    assert view.asked == 0


async def test_memory_of_an_older_turn_is_not_given() -> None:
    view = View(saved(2))
    checkpoints = source(view)
    checkpoints.keep(saved(1))
    assert await checkpoints.load(head_of(saved(2))) == saved(2)
    assert view.asked == 1


async def test_memory_is_bounded_in_bytes_and_forgets_the_oldest_first() -> None:
    view = View(saved(1, session="a", size=60))
    checkpoints = source(view)
    checkpoints.keep(saved(1, session="a", size=60))
    checkpoints.keep(saved(1, session="b", size=60))
    await checkpoints.load(head_of(saved(1, session="b", size=60)))
    assert view.asked == 0
    await checkpoints.load(head_of(saved(1, session="a", size=60)))
    assert view.asked == 1


async def test_a_checkpoint_kept_again_counts_once() -> None:
    view = View()
    checkpoints = source(view)
    for turn in range(1, 9):
        checkpoints.keep(saved(turn, size=60))
    checkpoints.keep(saved(1, session="b", size=40))
    await checkpoints.load(head_of(saved(8, size=60)))
    await checkpoints.load(head_of(saved(1, session="b", size=40)))
    assert view.asked == 0


async def test_one_larger_than_the_memory_is_not_kept() -> None:
    view = View(saved(1, size=101))
    checkpoints = source(view, bytes_max=OBJECT_BYTES + 100)
    checkpoints.keep(saved(1, size=101))
    await checkpoints.load(head_of(saved(1, size=101)))
    assert view.asked == 1
