"""Parts of a worker stop within the grace and a bound, whatever they wait for."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import structlog

from millstream.streams.renewal import Renewed
from millstream.streams.shutdown import stop_parts


class Piece:
    """Lanes, or views, that leave their group once `answered` is set: `has_left` says if it knows.

    `heeds` tells whether it ends when it is cancelled.
    """

    failure: BaseException | None = None
    cut_off = False

    def __init__(self, *, answered: bool = True, has_left: bool = True, heeds: bool = True) -> None:
        self.has_left = has_left
        self.graces_s: list[float] = []
        self.stopping = asyncio.Event()
        self.error: Exception | None = None
        self._heeds = heeds
        self.answered = asyncio.Event()
        if answered:
            self.answered.set()

    async def start(self) -> None:
        """Start."""

    async def stop(self, grace_s: float = 0.0) -> bool:
        """Wait for the broker's answer."""
        self.graces_s.append(grace_s)
        self.stopping.set()
        while not self.answered.is_set():
            try:
                await self.answered.wait()
            except asyncio.CancelledError:
                if self._heeds:
                    raise
        if self.error is not None:
            raise self.error
        return self.has_left


def held(piece: Piece, name: str = "lanes") -> Renewed[Piece]:
    """Hold a piece as a worker does."""

    async def stop(_: Piece) -> None:
        raise AssertionError

    return Renewed(name, lambda: piece, stop)


async def stopped(
    lanes: list[Renewed[Piece]], views: Renewed[Piece] | None = None, *, grace_s: float = 0.01
) -> list[tuple[str, list[str]]]:
    """Stop them; gives what was told, and of which."""
    with structlog.testing.capture_logs() as lines:
        await asyncio.wait_for(stop_parts(lanes, views, grace_s, closing_s=0.3), 5)
    return [(line["log_level"], line["not_told"]) for line in lines]


async def test_parts_whose_groups_know_are_not_worth_a_line() -> None:
    assert await stopped([held(Piece())], held(Piece(), "views")) == []


async def test_parts_that_no_broker_answers_are_given_up_in_time_and_told_in_one_line() -> None:
    away = [held(Piece(answered=False)), held(Piece(answered=False), "views")]
    assert await stopped([away[0]], away[1]) == [("warning", ["lanes", "views"])]


async def test_where_no_broker_answers_the_grace_is_all_that_there_is() -> None:
    piece = Piece(answered=False)
    piece.cut_off = True
    with structlog.testing.capture_logs() as lines:
        await asyncio.wait_for(stop_parts([held(piece)], None, 1.0, closing_s=60), 5)
    assert [line["not_told"] for line in lines] == [["lanes"]]


async def test_part_that_heeds_no_cancel_is_not_waited_for() -> None:
    piece = Piece(answered=False, heeds=False)
    assert await stopped([held(piece)]) == [("warning", ["lanes"])]
    piece.answered.set()


async def test_part_that_gave_its_group_up_itself_is_told_too() -> None:
    assert await stopped([held(Piece(has_left=False))], held(Piece(), "views")) == [
        ("warning", ["lanes"])
    ]


async def test_stage_that_hands_on_stops_first_and_takes_no_more_than_the_grace() -> None:
    first, second = Piece(answered=False), Piece()
    ending = asyncio.create_task(stop_parts([held(first, "one"), held(second, "two")], None, 60))
    await first.stopping.wait()
    assert not second.stopping.is_set()
    first.answered.set()
    await ending
    assert second.graces_s[0] > 1
    hanging, last = Piece(answered=False), Piece()
    assert await stopped([held(hanging, "one"), held(last, "two")]) == [("warning", ["one"])]
    assert last.graces_s == [0.0]


async def test_what_a_part_raises_is_raised_once_the_others_have_stopped() -> None:
    piece, views = Piece(), Piece()
    piece.error = ValueError("a fault of ours")
    with pytest.raises(ValueError, match="a fault of ours"):
        await stopped([held(piece)], held(views, "views"))
    assert views.stopping.is_set()


async def test_part_that_is_being_renewed_is_renewed_no_more() -> None:
    class Away(Piece):
        failure = ConnectionRefusedError()

    piece = Away()
    stops: list[Piece] = []

    async def stop(one: Piece) -> None:
        stops.append(one)
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        raise asyncio.CancelledError

    renewed = Renewed[Piece]("lanes", lambda: piece, stop)
    renewed.look()
    assert renewed.renewing
    assert await stopped([renewed]) == []
    assert not renewed.renewing
