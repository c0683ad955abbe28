"""What is full stays full until a tenth is free, and says so then, once."""

from __future__ import annotations

from millstream.streams.lane.queue.quotas import Backpressure


class Using:
    """Something that uses a room for ten."""

    def __init__(self) -> None:
        self.count = 0
        self.told = 0
        self.backpressure = Backpressure("requests-0", 10, lambda: self.count)
        self.backpressure.on_open(self.tell)

    def tell(self) -> None:
        self.told += 1

    def use(self, count: int) -> None:
        self.count = count
        self.backpressure.update()


def test_there_is_room_up_to_the_most() -> None:
    using = Using()
    using.use(9)
    assert using.backpressure.is_open()
    using.use(10)
    assert not using.backpressure.is_open()


def test_what_was_full_is_so_until_a_tenth_is_free_and_tells_of_it_once() -> None:
    using = Using()
    using.use(12)
    assert not using.backpressure.is_open()
    using.use(10)
    assert not using.backpressure.is_open()
    assert using.told == 0
    using.use(9)
    assert using.told == 1
    assert using.backpressure.is_open()
    using.use(8)
    assert using.told == 1


def test_nobody_is_told_of_room_who_was_not_refused() -> None:
    using = Using()
    using.use(12)
    using.use(3)
    assert using.told == 0
