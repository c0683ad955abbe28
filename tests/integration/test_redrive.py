"""Dead letters are put back once, whoever does it, on real Kafka with real lanes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from millstream.schemas.base import Address, Reason
from millstream.schemas.dead_letters import (
    CannotRedrive,
    DeadLetter,
    DeadLetterNotFound,
    DeadLetterRedriven,
)
from millstream.schemas.events import AgentRequest, AgentResult
from millstream.schemas.topics import (
    CONTROL,
    DEAD_LETTERS,
    REDRIVES,
    REQUESTS,
    RESULTS,
    catalogue,
    stage_topic,
)
from millstream.streams.broker.clients import idempotent_producer, transactional_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.history.dead_letters import (
    Buried,
    DeadLetterQuery,
    dead_letters,
    find_dead_letter,
    with_outcomes,
)
from millstream.streams.history.redrive import Mend, Redrive, Redriver
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.harness.lanes import Upstream, read_topic, read_whole, running_lanes, upstream
from tests.services.users import acting_as
from tests.support import eventually

pytestmark = pytest.mark.promise("P7")

NEWER = {"user_id": "ada", "input": "x", "schema_version": 99}
MENDED = b'{"user_id": "ada", "input": "say: mended"}'


async def bury(
    settings: Settings, program: Upstream, value: dict[str, Any] | bytes, *, count: int = 1
) -> Buried:
    """Publish a record that cannot be read, and wait for its dead letter, the `count`th."""
    sent = await program.publish(value, partition=home_partition("ada", settings.partitions))
    await read_topic(settings, DEAD_LETTERS, DeadLetter, count=count)
    return await find_dead_letter(
        settings, Address(topic=sent.topic, partition=sent.partition, offset=sent.offset)
    )


async def redrive(settings: Settings, buried: Buried, value: bytes | None = None) -> Redrive:
    """Put a dead letter back as an operator does who comes and goes."""
    async with Redriver(acting_as(settings, "operator")) as redriver:
        return await redriver.redrive(buried, value)


async def looked_up(settings: Settings, buried: Buried) -> Buried:
    """Give what has become of it by now."""
    (known,) = await with_outcomes(settings, [buried])
    return known


async def results_before(settings: Settings, program: Upstream) -> list[AgentResult]:
    """Give all results of ada's that come before one that is asked for now."""
    last = {"user_id": "ada", "request_id": "last", "input": "say: last"}
    await program.publish(last, partition=home_partition("ada", settings.partitions))

    async def ended() -> list[AgentResult]:
        found = await read_whole(settings, RESULTS, AgentResult)
        return found if any(one.request_id == "last" for one in found) else []

    return [one for one in await eventually(ended) if one.request_id != "last"]


async def test_a_mended_record_has_one_result_however_often_it_is_put_back(
    settings: Settings,
) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        buried = await bury(settings, program, NEWER)
        assert (await looked_up(settings, buried)).state == "dead"
        first = await redrive(settings, buried, MENDED)
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        again = await redrive(settings, buried, b'{"user_id": "ada", "input": "say: other"}')
        results = await results_before(settings, program)
    assert (first.first, again.first) == (True, False)
    assert again.redriven_as == first.redriven_as
    assert results == [result]
    assert (result.request_id, result.output) == (str(buried.source), "mended")
    assert result.source == buried.source
    known = await looked_up(settings, buried)
    assert (known.state, known.status) == ("ended", "completed")
    assert known.redrive is not None
    assert known.redrive.mended


async def test_a_record_whose_key_or_headers_are_too_large_can_be_mended(
    settings: Settings,
) -> None:
    home = home_partition("ada", settings.partitions)
    value = {"user_id": "ada", "input": "say: mended"}
    async with running_lanes(settings), upstream(settings) as program:
        for count, how in enumerate(
            ({"key": b"k" * 960_000}, {"headers": [("ce_x", b"x" * 960_000)]})
        ):
            sent = await program.publish(value, partition=home, **how)
            await read_topic(settings, DEAD_LETTERS, DeadLetter, count=count + 1)
            place = Address(topic=sent.topic, partition=sent.partition, offset=sent.offset)
            buried = await find_dead_letter(settings, place)
            assert buried.reason.code == "record_too_large"
            async with Redriver(acting_as(settings, "operator")) as redriver:
                if "headers" in how:
                    with pytest.raises(CannotRedrive, match="--no-headers leaves"):
                        await redriver.redrive(buried, MENDED)
                    await redriver.mend(buried, Mend(keeps_headers=False))
                else:
                    with pytest.raises(CannotRedrive, match=r"key 960000.*--key gives"):
                        await redriver.redrive(buried, leave_unreadable=True)
                    await redriver.redrive(buried, MENDED)
            await read_topic(settings, RESULTS, AgentResult, count=count + 1)
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
    assert [one.output for one in results] == ["mended"] * 2


async def test_of_two_operators_at_once_one_puts_it_back(settings: Settings) -> None:
    values = [
        json.dumps({"user_id": "ada", "request_id": f"r{n}", "input": f"say: {n}"}).encode()
        for n in range(2)
    ]
    async with running_lanes(settings), upstream(settings) as program:
        buried = await bury(settings, program, NEWER)
        told = await asyncio.gather(*(redrive(settings, buried, value) for value in values))
        results = await results_before(settings, program)
    assert sorted(one.first for one in told) == [False, True]
    assert len({one.redriven_as for one in told}) == 1
    assert [one.request_id for one in results] == [f"r{[one.first for one in told].index(True)}"]


async def test_what_a_crashed_operator_had_not_committed_never_happened(
    settings: Settings,
) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        buried = await bury(settings, program, NEWER)
        partition = buried.source.partition
        crashed = transactional_producer(settings, f"{settings.namespace}-redrive-{partition}")
        await crashed.start()
        try:
            await crashed.begin_transaction()
            await crashed.send_and_wait(
                settings.topic(REQUESTS.name), MENDED, b"ada", partition, headers=[]
            )
            # It holds its transaction open; the next operator need not wait for the time-out.
            done = await redrive(settings, buried, MENDED)
            results = await results_before(settings, program)
        finally:
            await crashed.stop()
    assert done.first
    assert [one.request_id for one in results] == [str(buried.source)]
    markers = await read_whole(settings, REDRIVES, DeadLetterRedriven)
    assert [one.redriven_as for one in markers] == [done.redriven_as]


async def test_a_record_that_still_cannot_be_read_is_dead_again_and_stays_the_same_request(
    settings: Settings,
) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        buried = await bury(settings, program, NEWER)
        done = await redrive(settings, buried)
        await read_topic(settings, DEAD_LETTERS, DeadLetter, count=2)
        known = await looked_up(settings, buried)
        assert known.dead_as is not None
        again = await find_dead_letter(settings, known.dead_as)
        await redrive(settings, again, MENDED)
        results = await results_before(settings, program)
    assert done.unreadable is not None
    assert done.unreadable.code == "newer_schema"
    assert (known.state, known.dead_as) == ("dead_again", done.redriven_as)
    assert again.came_of == buried.source
    assert [one.request_id for one in results] == [str(buried.source)]


async def test_a_mended_record_of_another_user_is_put_right_and_keeps_its_identity(
    settings: Settings,
) -> None:
    other = next(
        user
        for user in ("bob", "eve", "dan", "joe")
        if home_partition(user, settings.partitions) != home_partition("ada", settings.partitions)
    )
    async with running_lanes(settings), upstream(settings) as program:
        buried = await bury(settings, program, NEWER)
        await redrive(settings, buried, json.dumps({"user_id": other, "input": "x"}).encode())
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        known = await looked_up(settings, buried)
    assert (result.user_id, result.request_id) == (other, str(buried.source))
    assert known.status == "completed"


async def test_all_of_one_kind_are_put_back_by_one_redriver(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        for number in range(3):
            await bury(settings, program, NEWER, count=number + 1)
        await bury(settings, program, {"user_id": "ada"}, count=4)
        wanted = DeadLetterQuery(codes=frozenset({"newer_schema"}))
        found = [one async for one in dead_letters(acting_as(settings, "operator"), wanted)]
        async with Redriver(acting_as(settings, "operator")) as redriver:
            done = [await redriver.redrive(one, MENDED) for one in (*found, *found)]
        results = await results_before(settings, program)
    assert [one.first for one in done] == [True] * 3 + [False] * 3
    assert {one.request_id for one in results} == {str(one.source) for one in found}
    assert len(results) == 3


async def test_bytes_that_were_not_kept_are_read_where_the_record_stood(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    home = home_partition("ada", settings.partitions)
    async with upstream(settings) as program, idempotent_producer(settings) as producer:
        sent = await program.publish(MENDED, partition=home)
        for offset in (sent.offset, 1_000_000):
            letter = encode(
                making.dead_letter(
                    reason=Reason(code="record_too_large", message="not kept"),
                    source=Address(topic=sent.topic, partition=home, offset=offset),
                ),
                source="/test",
            )
            topic = settings.topic(DEAD_LETTERS.name)
            await producer.send_and_wait(topic, letter.value, letter.key, home)
        there, gone = [one async for one in dead_letters(settings, DeadLetterQuery())]
        await redrive(settings, there)
        with pytest.raises(CannotRedrive, match="does not have them any more"):
            await redrive(settings, gone)
        asked = await read_topic(settings, REQUESTS, AgentRequest, count=2)
        async with running_lanes(settings):
            results = await results_before(settings, program)
    assert asked[0] == asked[1]
    # The original could be read, too: as one request with its copy.
    assert [one.request_id for one in results] == [str(there.source)]


async def test_a_record_that_the_broker_refuses_is_told_and_the_next_one_put_back(
    settings: Settings,
) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        # It fits its topic, but not with one header more.
        large = await bury(settings, program, b" " * 1_048_400)
        small = await bury(settings, program, NEWER, count=2)
        async with Redriver(acting_as(settings, "operator")) as redriver:
            with pytest.raises(CannotRedrive, match="too large"):
                await redriver.redrive(large)
            await redriver.redrive(small, MENDED)
        results = await results_before(settings, program)
    assert [one.request_id for one in results] == [str(small.source)]
    assert (await looked_up(settings, large)).state == "dead"


@pytest.mark.parametrize(
    ("topic", "offset"), [("requests", 0), ("requests", 10**9), ("dead-letters", 5), ("none", 0)]
)
async def test_an_address_that_is_no_dead_letter_is_told(
    settings: Settings, topic: str, offset: int
) -> None:
    await ensure_topics(settings, catalogue())
    address = Address(topic=settings.topic(topic), partition=0, offset=offset)
    with pytest.raises(DeadLetterNotFound, match=f"{topic}-0-{offset} is no dead letter"):
        await find_dead_letter(settings, address)


async def test_a_mended_value_that_cannot_be_read_is_refused_and_costs_nothing(
    settings: Settings,
) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        buried = await bury(settings, program, NEWER)
        with pytest.raises(CannotRedrive, match="wrong_shape"):
            await redrive(settings, buried, b'{"user_id": "ada"}')
        assert (await looked_up(settings, buried)).state == "dead"
        assert (await redrive(settings, buried, MENDED)).first


async def test_another_number_of_partitions_in_the_settings_finds_what_there_is(
    settings: Settings,
) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        buried = await bury(settings, program, NEWER)
        await redrive(settings, buried, MENDED)
        await read_topic(settings, RESULTS, AgentResult, count=1)
        for partitions in (1, 64):
            elsewhere = settings.model_copy(update={"partitions": partitions})
            found = await find_dead_letter(elsewhere, buried.source)
            assert (await looked_up(elsewhere, found)).state == "ended"


async def test_a_command_is_not_put_back_but_to_be_given_again(settings: Settings) -> None:
    topic = settings.topic(CONTROL.name)
    async with running_lanes(settings), idempotent_producer(settings) as producer:
        await producer.send_and_wait(topic, b"{}", b"ada", 1)
        await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
        buried = await find_dead_letter(settings, Address(topic=topic, partition=1, offset=0))
        with pytest.raises(CannotRedrive, match="is a command"):
            await redrive(settings, buried)


async def test_a_record_between_stages_is_put_back_as_it_was_or_not_at_all(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"chain_cuts": ("executor",)})
    topic = settings.topic(stage_topic("executor").name)
    async with running_lanes(settings), idempotent_producer(settings) as producer:
        await producer.send_and_wait(topic, b"{}", b"ada", 1)
        await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
        buried = await find_dead_letter(settings, Address(topic=topic, partition=1, offset=0))
        with pytest.raises(CannotRedrive, match="takes no other value"):
            await redrive(settings, buried, MENDED)
        await redrive(settings, buried)
        await read_topic(settings, DEAD_LETTERS, DeadLetter, count=2)
        assert (await looked_up(settings, buried)).state == "dead_again"
    whole = settings.model_copy(update={"chain_cuts": ()})
    with pytest.raises(CannotRedrive, match="no lane reads"):
        await redrive(whole, buried)
