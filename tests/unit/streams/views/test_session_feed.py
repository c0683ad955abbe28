from __future__ import annotations

from millstream.schemas.errors import ForeignKey, ServiceUnavailable
from millstream.schemas.events import CheckpointSaved
from millstream.streams.settings import Settings
from millstream.streams.views.session_feed import SessionFeed
from tests import making


class View:
    """Takes events, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.offsets: list[int] = []

    async def put(self, _event: CheckpointSaved, offset: int) -> bool:
        if self.away:
            message = "switched off"
            raise ServiceUnavailable(message)
        self.offsets.append(offset)
        return True


CHECKPOINT = making.checkpoint(request_id="r", at_ms=1, checkpoint_id="c", turn=1, data="cw==")


def feed_of(view: View) -> SessionFeed[CheckpointSaved]:
    return SessionFeed(Settings(), "t.checkpoints", CheckpointSaved, view.put)


async def test_a_view_that_answers_gets_every_event() -> None:
    view = View()
    feed = feed_of(view)
    for offset in (1, 2, 4):
        await feed.offer(CHECKPOINT, 0, offset)
    assert view.offsets == [1, 2, 4]
    assert feed.redo_from(0) is None
    assert feed.partitions_behind == 0


async def test_the_first_offset_that_a_view_lacks_is_remembered_for_each_partition() -> None:
    view = View()
    feed = feed_of(view)
    await feed.offer(CHECKPOINT, 0, 1)
    view.away = True
    await feed.offer(CHECKPOINT, 0, 3)
    await feed.offer(CHECKPOINT, 0, 5)
    await feed.offer(CHECKPOINT, 1, 8)
    assert (feed.redo_from(0), feed.redo_from(1), feed.redo_from(2)) == (3, 8, None)
    assert feed.partitions_behind == 2


async def test_a_view_that_is_back_gets_nothing_newer_before_what_it_lacks() -> None:
    view = View()
    feed = feed_of(view)
    view.away = True
    await feed.offer(CHECKPOINT, 0, 3)
    view.away = False
    await feed.offer(CHECKPOINT, 0, 5)
    assert view.offsets == []
    assert feed.redo_from(0) == 3


async def test_partitions_of_another_worker_are_not_made_up_for() -> None:
    view = View()
    feed = feed_of(view)
    view.away = True
    for partition in (0, 1, 2):
        await feed.offer(CHECKPOINT, partition, 3)
    feed.keep([1, 3])
    assert (feed.redo_from(0), feed.redo_from(1), feed.redo_from(2)) == (None, 3, None)
    assert feed.partitions_behind == 1


class ForeignView(View):
    """Has a key of another type for each odd offset."""

    async def put(self, event: CheckpointSaved, offset: int) -> bool:
        if offset % 2:
            message = "of another type"
            raise ForeignKey(message)
        return await super().put(event, offset)


async def test_a_key_of_another_type_holds_up_no_other() -> None:
    view = ForeignView()
    told: list[None] = []
    feed = SessionFeed(
        Settings(),
        "t.checkpoints",
        CheckpointSaved,
        view.put,
        on_foreign_key=lambda: told.append(None),
    )
    for offset in range(1, 5):
        await feed.offer(CHECKPOINT, 0, offset)
    assert view.offsets == [2, 4]
    assert len(told) == 2
    assert feed.partitions_behind == 0


async def test_what_a_feed_lacks_of_a_log_that_was_set_back_begins_where_the_new_one_does() -> None:
    view = View()
    feed = feed_of(view)
    view.away = True
    await feed.offer(CHECKPOINT, 0, 90)
    feed.set_back(0, 2)
    feed.set_back(1, 0)
    assert feed.redo_from(0) == 2
    assert feed.redo_from(1) is None


async def test_why_a_view_takes_nothing_is_told_while_it_lacks_something() -> None:
    view = View()
    feed = feed_of(view)
    await feed.offer(CHECKPOINT, 0, 1)
    assert feed.trouble is None
    view.away = True
    await feed.offer(CHECKPOINT, 0, 3)
    assert feed.trouble == "switched off"
    feed.keep([])  # whoever has the partition now tells of it
    assert feed.trouble is None
