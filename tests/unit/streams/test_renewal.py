"""A part that an outage has ended is built anew; another error ends the worker."""

from __future__ import annotations

import asyncio

from aiokafka.errors import InvalidTopicError, NodeNotReadyError, TopicAuthorizationFailedError

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.renewal import Renewed, ended_by_outage
from tests.support import eventually


class Hangs:
    """In place of an error: the start never ends."""


class Piece:
    """A part that ends when it is told to."""

    def __init__(self, number: int, on_start: Exception | Hangs | None) -> None:
        self.number = number
        self.failure: BaseException | None = None
        self._on_start = on_start
        self.started = False

    async def start(self) -> None:
        """Start, or fail, or never get so far."""
        if isinstance(self._on_start, Hangs):
            await asyncio.Event().wait()
        elif self._on_start is not None:
            raise self._on_start
        self.started = True


class Pieces:
    """Makes parts; `on_start` says what the next ones fail with."""

    def __init__(self) -> None:
        self.made: list[Piece] = []
        self.stopped: list[int] = []
        self.on_start: list[Exception | Hangs] = []
        self.renewed = Renewed("pieces", self._make, self._stop, backoff_s=0.0, start_max_s=0.05)

    def _make(self) -> Piece:
        fails = self.on_start.pop(0) if self.on_start else None
        self.made.append(Piece(len(self.made), fails))
        return self.made[-1]

    async def _stop(self, piece: Piece) -> None:
        self.stopped.append(piece.number)

    def looked(self) -> bool:
        """Look, and tell whether a part runs."""
        self.renewed.look()
        return not self.renewed.renewing


async def test_part_that_an_outage_ended_is_stopped_and_another_one_serves() -> None:
    pieces = Pieces()
    await pieces.renewed.start()
    pieces.made[0].failure = NodeNotReadyError()
    pieces.renewed.look()
    assert pieces.renewed.renewing
    assert pieces.renewed.failure is None
    await eventually(pieces.looked)
    assert pieces.stopped == [0]
    assert pieces.renewed.part is pieces.made[1]
    assert pieces.made[1].started


async def test_part_is_tried_again_until_it_starts() -> None:
    pieces = Pieces()
    pieces.on_start = [ServiceUnavailable("away"), NodeNotReadyError(), ConnectionRefusedError()]
    pieces.made[0].failure = NodeNotReadyError()
    await eventually(pieces.looked)
    assert len(pieces.made) == 5
    assert pieces.stopped == [0, 1, 2, 3]


async def test_part_whose_start_never_ends_is_given_up_for_the_next_one() -> None:
    pieces = Pieces()
    pieces.on_start = [Hangs(), NodeNotReadyError()]
    pieces.made[0].failure = TopicAuthorizationFailedError("tokens")
    await eventually(pieces.looked)
    assert pieces.stopped == [0, 1, 2]
    assert pieces.renewed.part is pieces.made[3]
    assert pieces.made[3].started


async def test_part_that_another_error_ended_is_left_as_it_is() -> None:
    pieces = Pieces()
    other = InvalidTopicError("results")
    pieces.made[0].failure = other
    assert pieces.looked()
    assert pieces.renewed.failure is other


async def test_error_that_is_no_outage_ends_the_renewal() -> None:
    pieces = Pieces()
    other = InvalidTopicError("results")
    pieces.on_start = [other]
    pieces.made[0].failure = NodeNotReadyError()
    pieces.renewed.look()
    await eventually(lambda: pieces.renewed.failure is not None)
    assert pieces.renewed.failure is other
    pieces.renewed.look()
    assert pieces.renewed.failure is other
    await pieces.renewed.stop()
    assert pieces.stopped == [0, 1]


def test_outage_is_known_by_its_cause() -> None:
    wrapped = RuntimeError("Error while sending")
    wrapped.__cause__ = NodeNotReadyError()
    assert ended_by_outage(wrapped)
    assert not ended_by_outage(RuntimeError("no"))


def test_right_that_was_taken_away_may_be_given_back() -> None:
    wrapped = RuntimeError("Error while sending")
    wrapped.__cause__ = TopicAuthorizationFailedError("results")
    assert ended_by_outage(wrapped)
