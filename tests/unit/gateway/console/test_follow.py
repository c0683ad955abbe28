"""A request is followed from its publishing to its end."""

from __future__ import annotations

import asyncio

import pytest

from millstream.gateway.console.follow import Progress, Told, earlier_result, submitted
from millstream.schemas.base import Address, Usage
from millstream.schemas.dead_letters import DeadLetter, RequestIdReused
from millstream.schemas.events import AgentRequest, AgentResult, AgentToken, Decision
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import catalogue
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.bus.answer import Ended, Stepped, Text
from millstream.streams.bus.api import EventBus
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.settings import Settings
from tests import making
from tests.support import eventually

REQUEST = making.request(input="Hi", request_id="r", session_id="s")


def token(request_id: str = "r") -> AgentToken:
    return making.token(request_id=request_id, attempt=1, text="Hello")


def result() -> AgentResult:
    return making.result(request_id="r", output="Hello")


def letter(source: Address) -> DeadLetter:
    return making.dead_letter(source=source)


@pytest.fixture
def bus() -> MemoryBus:
    settings = Settings()
    broker = MemoryBroker(settings)
    broker.create_topics(catalogue())
    return MemoryBus(settings, broker)


async def types(bus: EventBus, *after: object) -> list[str]:
    async with asyncio.timeout(10), submitted(bus, REQUEST) as (address, coming):
        for event in after:
            await bus.publish(letter(address) if event == "letter" else event)  # type: ignore[arg-type]
        return [type(told.delivery.event).__name__ async for told in coming]


async def test_tokens_come_until_the_result(bus: MemoryBus) -> None:
    async with bus:
        told = await types(bus, token(), result())
    # The two topics have no order between them.
    assert told[-1] == "AgentResult"


async def test_what_concerns_another_request_is_left_out(bus: MemoryBus) -> None:
    async with bus:
        elsewhere = Address(topic="t", partition=0, offset=99)
        assert await types(bus, token("other"), letter(elsewhere), result()) == ["AgentResult"]


async def test_a_dead_letter_of_the_record_ends_it(bus: MemoryBus) -> None:
    async with bus:
        assert await types(bus, "letter") == ["DeadLetter"]


async def test_an_earlier_result_of_the_same_id_is_found(bus: MemoryBus) -> None:
    async with bus:
        assert await earlier_result(bus, REQUEST) is None
        await bus.publish(result())
        found = await earlier_result(bus, REQUEST)
    assert found is not None
    assert found.delivery.event == result()
    assert [type(piece) for piece in found.pieces] == [Text, Ended]


def decision(request: AgentRequest) -> Decision:
    place = Address(topic="t", partition=0, offset=0)
    return making.decision(
        request_id="r", source=place, request_digest=request.resolved(place, 7).digest
    )


async def test_the_same_question_asked_again_gets_its_earlier_result(bus: MemoryBus) -> None:
    async with bus:
        await bus.publish_batch([decision(REQUEST), result()])
        asked_later = REQUEST.model_copy(update={"deadline_ms": 9, "at_ms": 8})
        assert await earlier_result(bus, asked_later) is not None


@pytest.mark.parametrize("other", [{"input": "Bye"}, {"session_id": None}, {"model": "scripted"}])
async def test_another_question_under_the_id_is_not_given_the_earlier_result(
    bus: MemoryBus, other: dict[str, str | None]
) -> None:
    async with bus:
        await bus.publish_batch([decision(REQUEST), result()])
        with pytest.raises(RequestIdReused, match="'r' was used before"):
            await earlier_result(bus, REQUEST.model_copy(update=other))


async def test_an_earlier_result_whose_text_stands_in_its_tokens_alone_ends_all_the_same(
    bus: MemoryBus,
) -> None:
    cut_off = result().model_copy(update={"status": "cancelled", "output": None, "last_seq": 3})
    async with bus:
        await bus.publish(cut_off)
        found = await earlier_result(bus, REQUEST)
    assert found is not None
    assert [type(piece) for piece in found.pieces] == [Ended]


async def test_a_request_that_was_cut_off_is_followed_until_all_its_tokens_came(
    bus: MemoryBus,
) -> None:
    cut_off = result().model_copy(
        update={"status": "cancelled", "output": None, "attempt": 1, "last_seq": 0}
    )
    async with bus, asyncio.timeout(10), submitted(bus, REQUEST) as (_, coming):
        await bus.publish(cut_off)
        assert (await anext(coming)).pieces == ()
        await bus.publish(token())
        (last,) = [told async for told in coming]
    assert [type(piece) for piece in last.pieces] == [Text, Ended]


async def test_steps_that_come_behind_the_result_are_awaited(bus: MemoryBus) -> None:
    step = AgentStep(
        user_id="ada",
        request_id="r",
        session_id="s",
        at_ms=1,
        attempt=1,
        seq=0,
        kind="model_start",
        name="scripted",
    )
    ended = result().model_copy(update={"attempt": 1, "last_seq": 0, "steps": 1})
    pieces = []
    async with bus, asyncio.timeout(10), submitted(bus, REQUEST, steps=True) as (_, coming):
        await bus.publish(ended)
        assert isinstance((await anext(coming)).delivery.event, AgentResult)
        await bus.publish_batch([token(), step])
        async for told in coming:
            pieces += told.pieces
    assert [type(piece) for piece in pieces if not isinstance(piece, Text)] == [Stepped, Ended]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == "Hello"


async def last_told(bus: MemoryBus, *after: object, progress: Progress | None = None) -> Told:
    async with (
        asyncio.timeout(10),
        submitted(bus, REQUEST, progress=progress) as (_, coming),
    ):
        for event in after:
            await bus.publish(event)  # type: ignore[arg-type]
        return [told async for told in coming][-1]


@pytest.mark.parametrize(("digest", "unpriced"), [("unpriced", True), ("d", False)])
async def test_a_model_without_a_price_is_known_by_its_costs(
    bus: MemoryBus, digest: str, *, unpriced: bool
) -> None:
    usage = Usage(input_tokens=3, output_tokens=1)
    cost = making.cost(request_id="r", price_digest=digest, usage=usage, cost_micros=0)
    async with bus:
        ended = result().model_copy(update={"usage": usage})
        assert (await last_told(bus, cost, ended)).unpriced is unpriced


async def test_progress_says_whether_a_worker_has_taken_it_up(bus: MemoryBus) -> None:
    progress = Progress()
    async with bus:
        following = asyncio.create_task(last_told(bus, progress=progress))
        await eventually(lambda: progress.address is not None)
        assert not progress.taken_up
        await bus.publish(making.decision(request_id="r"))
        await eventually(lambda: progress.taken_up)
        await bus.publish(result())
        assert isinstance((await following).delivery.event, AgentResult)
