"""Gathering tokens into records: order, bounds, and an emitter that is slow or fails."""

from __future__ import annotations

import asyncio

import pytest

from millstream.agents.loop.token_writer import (
    GATHERED_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    PIECE_BYTES_MAX,
    TokenWriter,
)
from millstream.schemas.errors import LaneLost, Terminal
from millstream.schemas.events import AgentToken
from millstream.schemas.ports import EmitToken
from tests.harness.agent_runs import resolved
from tests.support import eventually

pytestmark = pytest.mark.promise("P3")


class Broker:
    """Takes pieces while its gate is open."""

    def __init__(self) -> None:
        self.pieces: list[AgentToken] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def emit(self, piece: AgentToken) -> None:
        self.waiting += 1
        assert self.waiting == 1  # one at a time
        await self.gate.wait()
        self.waiting -= 1
        self.pieces.append(piece)


def a_writer(emit: EmitToken, *, coalesce_s: float = 0.02) -> TokenWriter:
    return TokenWriter(
        resolved("x"), attempt=5, emit=emit, coalesce_s=coalesce_s, clock_ms=lambda: 9
    )


async def test_the_first_piece_leaves_at_once_and_later_ones_together() -> None:
    broker = Broker()
    writer = a_writer(broker.emit)
    await writer.write("a")
    assert [piece.text for piece in broker.pieces] == ["a"]
    await writer.write("b")
    await writer.write("c")
    assert len(broker.pieces) == 1
    await eventually(lambda: len(broker.pieces) == 2)
    assert (broker.pieces[1].text, broker.pieces[1].tokens, broker.pieces[1].seq) == ("bc", 2, 1)
    assert writer.text == "abc"
    await writer.finish()
    assert len(broker.pieces) == 2


async def test_finishing_emits_what_is_gathered() -> None:
    broker = Broker()
    writer = a_writer(broker.emit, coalesce_s=600)
    await writer.write("a")
    await writer.write("b")
    await writer.finish()
    assert [piece.text for piece in broker.pieces] == ["a", "b"]
    assert writer.last_seq == 1


async def test_a_slow_broker_makes_the_model_wait_with_bounded_memory() -> None:
    broker = Broker()
    writer = a_writer(broker.emit, coalesce_s=0)
    await writer.write("a")
    broker.gate.clear()
    written = 0

    async def model() -> None:
        nonlocal written
        for _ in range(1000):
            await writer.write("x" * 100)
            written += 100

    task = asyncio.create_task(model())
    await eventually(lambda: broker.waiting == 1 and written >= GATHERED_BYTES_MAX - 100)
    assert written <= 2 * GATHERED_BYTES_MAX
    broker.gate.set()
    await task
    await writer.finish()
    assert writer.text == "a" + "x" * 100_000
    assert [piece.seq for piece in broker.pieces] == list(range(writer.last_seq + 1))


async def test_a_failure_in_the_background_is_raised_by_what_comes_next() -> None:
    async def emit(piece: AgentToken) -> None:
        if piece.seq == 1:
            raise ZeroDivisionError

    writer = a_writer(emit, coalesce_s=0)
    await writer.write("a")
    await writer.write("b")
    await eventually(lambda: writer._failure is not None)
    with pytest.raises(ZeroDivisionError):
        await writer.write("c")
    with pytest.raises(ZeroDivisionError):
        await writer.finish()
    assert (writer.text, writer.last_seq) == ("a", 0)


async def test_settling_tells_of_a_lost_lane() -> None:
    async def emit(_: AgentToken) -> None:
        message = "fenced"
        raise LaneLost(message)

    writer = a_writer(emit)
    with pytest.raises(LaneLost):
        await writer.write("a")
    with pytest.raises(LaneLost):
        await writer.settle()


async def test_a_piece_whose_emitting_is_cancelled_elsewhere_is_not_silently_missing() -> None:
    sends: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def emit(piece: AgentToken) -> None:
        if piece.seq == 1:
            await sends

    writer = a_writer(emit, coalesce_s=0)
    await writer.write("a")
    await writer.write("b")
    await eventually(lambda: writer._sending is not None and not writer._sending.done())
    sends.cancel()
    with pytest.raises(LaneLost):
        await writer.finish()
    assert writer.text == "a"


async def test_abandoning_stops_a_piece_that_waits() -> None:
    broker = Broker()
    writer = a_writer(broker.emit, coalesce_s=0)
    await writer.write("a")
    broker.gate.clear()
    await writer.write("b")
    await eventually(lambda: broker.waiting == 1)
    await writer.abandon()
    broker.gate.set()
    assert [piece.text for piece in broker.pieces] == ["a"]
    assert writer.text == "a"


async def test_text_beyond_what_a_result_can_hold_is_refused() -> None:
    writer = a_writer(Broker().emit)
    await writer.write("x" * OUTPUT_BYTES_MAX)
    with pytest.raises(Terminal):
        await writer.write("x")


async def test_text_that_is_too_long_as_json_is_emitted_in_pieces_between_characters() -> None:
    broker = Broker()
    writer = a_writer(broker.emit)
    text = "\x01\U0001f600" * 50_000
    await writer.write(text, tokens=7)
    await writer.finish()
    assert len(broker.pieces) > 1
    assert [piece.seq for piece in broker.pieces] == list(range(len(broker.pieces)))
    assert "".join(piece.text for piece in broker.pieces) == writer.text == text
    assert sum(piece.tokens for piece in broker.pieces) == 7
    for piece in broker.pieces:
        assert len(piece.model_dump_json()) <= PIECE_BYTES_MAX + 1_000


async def test_text_whose_second_piece_fails_is_what_was_emitted_of_it() -> None:
    emitted: list[str] = []

    async def emit(piece: AgentToken) -> None:
        if emitted:
            raise Terminal("refused")  # noqa: EM101
        emitted.append(piece.text)

    writer = a_writer(emit)
    with pytest.raises(Terminal, match="refused"):
        await writer.write("\x01" * 100_000)
    assert (writer.text, writer.last_seq) == (emitted[0], 0)
    assert 0 < len(writer.text) < 100_000


async def test_text_that_is_no_unicode_is_made_so() -> None:
    broker = Broker()
    writer = a_writer(broker.emit)
    await writer.write("a\ud800b")
    assert broker.pieces[0].model_dump_json()
    assert writer.text == "a?b"


async def test_nothing_is_emitted_for_no_text() -> None:
    broker = Broker()
    writer = a_writer(broker.emit)
    await writer.write("")
    await writer.finish()
    assert broker.pieces == []
    assert writer.last_seq == -1
    assert writer.first_token_at_ms is None


async def test_an_announcement_leaves_at_once_and_is_the_first_piece() -> None:
    broker = Broker()
    writer = a_writer(broker.emit)
    await writer.announce()
    (announced,) = broker.pieces
    assert (announced.seq, announced.text, announced.tokens) == (0, "", 0)
    assert (writer.last_seq, writer.text, writer.empty) == (0, "", True)
    assert writer.first_token_at_ms is None
    await writer.write("a")
    assert [(piece.seq, piece.text) for piece in broker.pieces] == [(0, ""), (1, "a")]
    assert writer.first_token_at_ms == 9


async def test_an_announcement_that_fails_is_raised_and_nothing_follows_it() -> None:
    async def emit(_: AgentToken) -> None:
        message = "the broker is away"
        raise LaneLost(message)

    writer = a_writer(emit)
    with pytest.raises(LaneLost):
        await writer.announce()
    with pytest.raises(LaneLost):
        await writer.write("a")
    assert writer.last_seq == -1
