"""What the reader of an answer yields, whatever bus it reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from millstream.schemas.base import Address
from millstream.schemas.errors import AnswerLate, AnswerUnknown, Misconfigured, ServiceUnavailable
from millstream.schemas.events import AgentResult, AgentToken, ResultStatus
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import RESULTS, TOKENS
from millstream.streams.bus.api import NOW, EventBus, EventFilter, FromTime
from millstream.streams.bus.token_reader import (
    Ended,
    Piece,
    Position,
    StartedAnew,
    Stepped,
    Text,
    TokenReader,
    answer,
)
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.support import eventually

MOMENT_S = 0.2
"""Waited out by the test that expects nothing to come."""


class World(Protocol):
    """Where buses run: topics exist, and whatever one bus publishes the others read."""

    settings: Settings

    def bus(self) -> EventBus:
        """Make another bus, as another process would, not started."""


def token(text: str, seq: int, attempt: int = 1000, *, request: str = "r") -> AgentToken:
    return making.token(request_id=request, attempt=attempt, seq=seq, text=text)


def step(seq: int, place: int = 0, attempt: int = 1000, *, request: str = "r") -> AgentStep:
    return AgentStep(
        user_id="ada",
        request_id=request,
        session_id="s",
        at_ms=1,
        attempt=attempt,
        seq=seq,
        kind="tool_start",
        text_bytes=place,
    )


def result(
    output: str | None,
    attempt: int = 1000,
    *,
    last_seq: int = -1,
    request: str = "r",
    status: ResultStatus = "completed",
    steps: int | None = None,
) -> AgentResult:
    return making.result(
        request_id=request,
        status=status,
        output=output,
        attempt=attempt,
        last_seq=last_seq,
        steps=steps,
    )


def words(pieces: list[Piece]) -> list[str]:
    """Give the pieces' texts, `!` for a new beginning, `#` for a step and `.` for the end."""
    told = []
    for piece in pieces:
        match piece:
            case Text(text=text):
                told.append(text)
            case StartedAnew():
                told.append("!")
            case Stepped(step=stepped):
                told.append(f"#{stepped.seq}")
            case Ended():
                told.append(".")
    return told


async def take(reader: TokenReader, count: int) -> list[Piece]:
    return [await anext(reader) for _ in range(count)]


class TokenReaderContract:
    """Cases of the reader on any bus; a subclass gives the `world` fixture."""

    @pytest.fixture
    async def bus(self, world: World) -> AsyncIterator[EventBus]:
        async with world.bus() as bus:
            yield bus

    async def test_tokens_are_yielded_as_they_are_written_and_the_end_is_the_last(
        self, bus: EventBus
    ) -> None:
        async with TokenReader(bus, "ada", "r", since=NOW) as reader:
            await bus.publish(token("one ", 0))
            assert words(await take(reader, 1)) == ["one "]
            await bus.publish(token("two", 1))
            assert words(await take(reader, 1)) == ["two"]
            await bus.publish(result("one two", last_seq=1))
            assert words([piece async for piece in reader]) == ["."]
            # Over is over.
            assert [piece async for piece in reader] == []

    async def test_a_lost_attempt_is_void_as_soon_as_the_next_one_is_announced(
        self, bus: EventBus
    ) -> None:
        async with TokenReader(bus, "ada", "r", since=NOW) as reader:
            await bus.publish(token("old", 0))
            await bus.publish(token("", 0, 2000))
            assert words(await take(reader, 2)) == ["old", "!"]
            # A zombie goes on.
            await bus.publish_batch([token("er", 1), token("new", 1, 2000), token("est", 2)])
            await bus.publish(result("new", 2000, last_seq=1))
            assert words([piece async for piece in reader]) == ["new", "."]

    async def test_an_answer_is_read_after_the_fact(self, bus: EventBus) -> None:
        before = await bus.publish_batch([token("x", 0, request="earlier"), token("a", 0)])
        (first, *_) = await bus.history(topics=[TOKENS])
        assert first.address == before[0]
        await bus.publish(token("b", 1))
        await bus.publish(result("x", request="earlier"))
        await bus.publish(result("ab", last_seq=1))
        for reader in (
            TokenReader(bus, "ada", "r"),
            TokenReader(bus, "ada", "r", since=FromTime(first.at_ms)),
        ):
            async with reader:
                told = words([piece async for piece in reader])
            assert "".join(told) == "ab."

    async def test_a_reader_that_begins_in_the_middle_gets_the_whole_text_with_the_result(
        self, bus: EventBus
    ) -> None:
        await bus.publish(token("a", 0))
        async with TokenReader(bus, "ada", "r", since=NOW) as reader:
            await bus.publish(token("b", 1))
            await bus.publish(result("ab", last_seq=1))
            assert words([piece async for piece in reader]) == ["ab", "."]

    async def test_another_process_goes_on_behind_any_piece(
        self, world: World, bus: EventBus
    ) -> None:
        await bus.publish_batch(
            [token("old", 0), token("er", 1), token("", 0, 2000), token("ne", 1, 2000)]
        )
        await bus.publish(token("w", 2, 2000))
        await bus.publish(result("new", 2000, last_seq=2))
        async with TokenReader(bus, "ada", "r") as reader:
            whole = [piece async for piece in reader]
        assert isinstance(whole[-1], Ended)
        text = ""
        for index, piece in enumerate(whole):
            text = text + piece.text if isinstance(piece, Text) else text
            text = "" if isinstance(piece, StartedAnew) else text
            resume = Position.parse(str(piece.position))
            shown = text
            async with (
                world.bus() as other,
                TokenReader(other, "ada", "r", resume=resume) as reader,
            ):
                async for later in reader:
                    shown = shown + later.text if isinstance(later, Text) else shown
                    shown = "" if isinstance(later, StartedAnew) else shown
                    ended = isinstance(later, Ended)
                assert (shown, index == len(whole) - 1 or ended) == ("new", True)

    async def test_steps_are_yielded_in_their_place_where_they_are_wanted(
        self, bus: EventBus
    ) -> None:
        async with TokenReader(bus, "ada", "r", since=NOW, steps=True) as reader:
            await bus.publish_batch([step(0, request="other"), step(0), step(1, 4)])
            assert words(await take(reader, 1)) == ["#0"]
            await bus.publish(token("one two", 0))
            assert words(await take(reader, 3)) == ["one ", "#1", "two"]
            # Whichever comes first: the end waits for them.
            await bus.publish(result("one two", last_seq=0, steps=3))
            await bus.publish(step(2, 7))
            assert words([piece async for piece in reader]) == ["#2", "."]
        async with TokenReader(bus, "ada", "r") as reader:
            assert "".join(words([piece async for piece in reader])) == "one two."

    async def test_steps_of_a_lost_attempt_are_void_as_its_text_is(self, bus: EventBus) -> None:
        async with TokenReader(bus, "ada", "r", since=NOW, steps=True) as reader:
            await bus.publish_batch([step(0), step(1), step(0, 0, 2000)])
            assert words(await take(reader, 4)) == ["#0", "#1", "!", "#0"]
            # A zombie goes on.
            await bus.publish_batch([step(2), token("old", 0), step(1, 0, 2000)])
            await bus.publish(result(None, 2000, status="failed", steps=2))
            assert words([piece async for piece in reader]) == ["#1", "."]

    # A product that connected again lost the calls that it had shown before
    # (nesquena/hermes-webui#3707), or showed them twice; here it goes on behind any piece.
    async def test_another_process_goes_on_behind_any_step(
        self, world: World, bus: EventBus
    ) -> None:
        await bus.publish_batch([step(0), token("old", 0), step(1, 3), step(0, 0, 2000)])
        await bus.publish_batch([token("", 0, 2000), step(1, 2, 2000), token("new", 1, 2000)])
        await bus.publish(step(2, 3, 2000))
        await bus.publish(result("new", 2000, last_seq=1, steps=3))
        async with TokenReader(bus, "ada", "r", steps=True) as reader:
            whole = [piece async for piece in reader]
        for index in range(0, len(whole), 3):
            resume = Position.parse(str(whole[index].position))
            async with (
                world.bus() as other,
                TokenReader(other, "ada", "r", resume=resume, steps=True) as reader,
            ):
                told = words([*whole[: index + 1], *[piece async for piece in reader]])
            told = told[len(told) - told[::-1].index("!") :] if "!" in told else told
            assert [word for word in told if word.startswith("#")] == ["#0", "#1", "#2"]
            text = "".join(word for word in told if not word.startswith("#"))
            assert text == "new."

    # garfiec/Librechat-Mobile#137: a call under way was not shown where the stream was resumed.
    async def test_a_position_of_a_reader_without_steps_gives_all_of_the_attempts(
        self, bus: EventBus
    ) -> None:
        await bus.publish_batch([step(0), token("a", 0)])
        async with TokenReader(bus, "ada", "r") as reader:
            (piece,) = await take(reader, 1)
        await bus.publish_batch([step(1, 1), token("b", 1)])
        await bus.publish(result("ab", last_seq=1, steps=2))
        resume = Position.parse(str(piece.position))
        async with TokenReader(bus, "ada", "r", resume=resume, steps=True) as reader:
            told = words([piece async for piece in reader])
        assert [word for word in told if word != "b"] == ["#0", "#1", "."]
        assert "b" in told

    async def test_steps_before_the_place_where_reading_began_hold_up_no_end(
        self, bus: EventBus
    ) -> None:
        await bus.publish_batch([step(0), step(1)])
        async with TokenReader(bus, "ada", "r", since=NOW, steps=True) as reader:
            await bus.publish(result("ab", last_seq=0, steps=2))
            told = words([piece async for piece in reader])
        assert "".join(told) in {"ab.", "#0#1ab."}

    async def test_a_request_that_is_rejected_just_ends(self, bus: EventBus) -> None:
        await bus.publish(result(None, 0, status="rejected"))
        async with TokenReader(bus, "ada", "r") as reader:
            (end,) = [piece async for piece in reader]
        assert isinstance(end, Ended)
        assert end.result.status == "rejected"

    async def test_only_the_answer_of_this_user_is_read(self, bus: EventBus) -> None:
        other = token("not ada's", 0).model_copy(update={"user_id": "grace"})
        tenants = token("not hers", 0).model_copy(update={"tenant": "acme"})
        await bus.publish_batch([other, tenants, token("hers", 0)])
        await bus.publish(result("hers", last_seq=0))
        async with TokenReader(bus, "ada", "r") as reader:
            assert "".join(words([piece async for piece in reader])) == "hers."

    async def test_a_reader_that_waited_long_enough_says_so_and_may_be_asked_again(
        self, bus: EventBus
    ) -> None:
        async with TokenReader(bus, "ada", "r", timeout_s=MOMENT_S) as reader:
            with pytest.raises(AnswerLate, match="request r of ada"):
                await anext(reader)
            await bus.publish(result("a", last_seq=0))

            async def asked_again() -> Piece | None:
                try:
                    return await anext(reader)
                except AnswerLate:
                    return None

            assert words([await eventually(asked_again), await anext(reader)]) == ["a", "."]

    async def test_a_reader_of_a_request_that_nobody_made_says_so_once_it_has_waited(
        self, bus: EventBus
    ) -> None:
        await bus.publish(making.request(request_id="r", user_id="grace"))
        async with TokenReader(bus, "ada", "r", timeout_s=MOMENT_S) as reader:
            with pytest.raises(AnswerUnknown, match=r"no such request has come.* could be read"):
                await anext(reader)
            await bus.publish(making.request(request_id="r", user_id="ada"))
            with pytest.raises(AnswerLate, match="it waits to be run") as late:
                await anext(reader)
            assert not isinstance(late.value, AnswerUnknown)

    async def test_a_bus_that_is_stopped_stops_its_readers(self, world: World) -> None:
        bus = world.bus()
        async with bus:
            reader = await TokenReader(bus, "ada", "r").__aenter__()
        with pytest.raises(ServiceUnavailable, match="stopped"):
            await anext(reader)
        await reader.__aexit__()

    async def test_the_answer_of_a_request_is_its_result(self, bus: EventBus) -> None:
        await bus.publish(token("a", 0))
        await bus.publish(result("a", last_seq=0))
        assert await answer(bus, "ada", "r") == result("a", last_seq=0)

    async def test_a_position_of_other_topics_is_refused(self, world: World, bus: EventBus) -> None:
        home = home_partition("ada", world.settings.partitions)
        for elsewhere in (Position(home + 1), Position(home, 5, 0), Position(home, 0, 5)):
            with pytest.raises(Misconfigured, match="topics are others"):
                await TokenReader(bus, "ada", "r", resume=elsewhere).__aenter__()

    async def test_reading_begins_where_a_tail_would(self, world: World, bus: EventBus) -> None:
        home = home_partition("ada", world.settings.partitions)
        ada = EventFilter(user_id="ada")
        await bus.publish(token("a", 0))
        (tokens, results) = await bus.starts([TOKENS, RESULTS], NOW, ada)
        assert tokens == Address(topic=world.settings.topic("tokens"), partition=home, offset=1)
        assert (results.partition, results.offset) == (home, 0)
        assert len(await bus.starts([TOKENS], NOW)) == world.settings.partitions
