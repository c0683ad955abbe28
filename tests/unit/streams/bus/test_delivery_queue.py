"""A delivery queue is bounded, and says where its reader must come back to."""

from __future__ import annotations

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.streams.bus.api import EVERYTHING, Delivery
from millstream.streams.bus.delivery_queue import DeliveryQueue
from tests import making

HERE = TopicPartition("tokens", 0)


def delivery(offset: int) -> Delivery:
    token = making.token(request_id="r", attempt=0, seq=offset, text="x")
    return Delivery(token, Address(topic="tokens", partition=0, offset=offset), 1)


def delivery_queue(
    *, records_max: int = 4, bytes_max: int = 1000
) -> tuple[DeliveryQueue, list[DeliveryQueue]]:
    room: list[DeliveryQueue] = []
    box = DeliveryQueue(
        EVERYTHING, {HERE: 0}, room.append, records_max=records_max, bytes_max=bytes_max
    )
    return box, room


async def test_full_mailbox_notes_the_first_record_that_it_could_not_take() -> None:
    box, _ = delivery_queue()
    for offset in range(5):
        box.put_if_wanted(HERE, delivery(offset), 10)
    assert (box.full, len(box), box.positions[HERE]) == (True, 4, 4)


async def test_room_is_told_once_half_of_it_is_free() -> None:
    box, room = delivery_queue()
    for offset in range(5):
        box.put_if_wanted(HERE, delivery(offset), 10)
    await box.get()
    assert (box.full, room) == (True, [])
    await box.get()
    assert (box.full, room) == (False, [box])


async def test_bytes_bound_it_too() -> None:
    box, _ = delivery_queue(bytes_max=25)
    for offset in range(3):
        box.put_if_wanted(HERE, delivery(offset), 10)
    assert (box.full, len(box), box.positions[HERE]) == (True, 2, 2)


async def test_record_larger_than_the_mailbox_passes_alone() -> None:
    box, _ = delivery_queue(bytes_max=25)
    box.put_if_wanted(HERE, delivery(0), 1000)
    assert (box.full, len(box)) == (False, 1)
    box.put_if_wanted(HERE, delivery(1), 1)
    assert (box.full, box.positions[HERE]) == (True, 1)


async def test_disabled_and_cleared_mailbox_has_room_again() -> None:
    box, room = delivery_queue()
    for offset in range(5):
        box.put_if_wanted(HERE, delivery(offset), 10)
    box.enabled = False
    box.clear()
    assert (len(box), box.full, room) == (0, False, [box])
    box.put_if_wanted(HERE, delivery(4), 10)
    assert len(box) == 0


async def test_closed_mailbox_gives_nothing_more() -> None:
    box, _ = delivery_queue()
    box.put_if_wanted(HERE, delivery(0), 10)
    box.close()
    assert await box.get() is None
