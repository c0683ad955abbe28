"""A timeline gathers the tokens that were written in a row."""

from __future__ import annotations

from collections.abc import AsyncIterator

from millstream.gateway.console.replay.timeline import timeline
from millstream.schemas.base import Address, Event
from millstream.schemas.events import AgentToken
from millstream.streams.bus.api import Delivery
from tests import making


def token(text: str, seq: int, attempt: int = 1000) -> AgentToken:
    return making.token(request_id="r", attempt=attempt, seq=seq, text=text)


async def told(*events: Event) -> list[str]:
    async def entries() -> AsyncIterator[Delivery]:
        for offset, event in enumerate(events):
            yield Delivery(event, Address(topic="ns.t", partition=0, offset=offset), 1000)

    told = [line async for line in timeline(entries(), "ns")]
    # Time, place and user; then request, attempt and session, each as short as it may be.
    return [" ".join(line.split("ada", 1)[1].split()) for line in told]


async def test_tokens_in_a_row_make_one_line() -> None:
    asked = making.request(input="Hi")
    assert await told(asked, token("a", 0), token("b", 1), asked) == [
        "- - - asks chat_agent: Hi",
        "r 1000 s writes (attempt 1000, 0 to 1): ab",
        "- - - asks chat_agent: Hi",
    ]


async def test_a_new_attempt_begins_a_line() -> None:
    assert await told(token("a", 0), token("b", 0, attempt=2000)) == [
        "r 1000 s writes (attempt 1000, 0): a",
        "r 2000 s writes (attempt 2000, 0): b",
    ]


async def test_tokens_of_two_users_with_one_key_make_a_line_each() -> None:
    of_tenant = token("a", 0).model_copy(update={"tenant": "acme"})
    slashed = token("b", 1).model_copy(update={"user_id": "acme/ada"})
    assert of_tenant.partition_key == slashed.partition_key
    assert await told(of_tenant, slashed) == [
        "r 1000 s writes (attempt 1000, 0): a",
        "r 1000 s writes (attempt 1000, 1): b",
    ]


async def test_nothing_makes_no_line() -> None:
    assert await told() == []
