"""What a replay gives, whatever log it reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from millstream.schemas.base import Address
from millstream.schemas.dead_letters import DeadLetter, NotJson, WrongShape
from millstream.schemas.errors import NoSuchPartition
from millstream.schemas.events import AgentRequest, Origin, ResolvedRequest
from millstream.schemas.lane_events import RunParked, TemplateWait
from millstream.schemas.topics import (
    COMMAND_TOPICS,
    CONTROL,
    COSTS,
    DEAD_LETTERS,
    INPUT_BYTES_MAX,
    PARKED,
    REQUESTS,
    RUN_MIGRATIONS,
    SESSION_COMMANDS,
    TOKENS,
    TopicSpec,
)
from millstream.streams.bus.api import Delivery, EventBus, EventFilter, Unreadable
from millstream.streams.bus.record_log import Entry
from millstream.streams.history.replay import HISTORY_TOPICS, HistoryQuery
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import ORIGIN
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import InputRecord, dead_letter
from tests import making
from tests.contracts.bus_world import cost, token
from tests.support import eventually

INPUTS: dict[str, dict[str, Any]] = {
    REQUESTS.name: {"input": "hello"},
    CONTROL.name: {"command": "pause", "request_id": "r1"},
    SESSION_COMMANDS.name: {"operation": "close", "session_id": "s1", "command_id": "c1"},
    RUN_MIGRATIONS.name: {"request_id": "r1", "to_version": "2", "command_id": "c1"},
}
"""What users may write to each topic that lanes take in, but for the user."""


NAMING: tuple[tuple[bytes | None, bytes | None], ...] = (
    (b"rita", b"junk"),
    (b"x", b'{"user_id": "rita", "session_id": "s1"}'),
    (b"acme/rita", b'{"session_id": "s1"}'),
    (None, b'{"user_id": "rita", "tenant": "acme", "request_id": "r1"}'),
    (b"rita", b'{"request": {"user_id": "rita", "request_id": "r1"}}'),
    (b"grace", b'{"user_id": "grace"}'),
    (None, None),
)
"""Keys and values of records that cannot be read, and name somebody."""


def wanted_of(wanted: EventFilter, entry: Entry) -> bool:
    return isinstance(entry, Unreadable) and wanted.matches_unreadable(entry)


class HistoryWorld(Protocol):
    """Topics, a bus to fill them, and the replay of them."""

    settings: Settings

    def bus(self) -> EventBus:
        """Make a bus, not started."""

    async def put(
        self,
        spec: TopicSpec,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Address:
        """Append any record; without a value a tombstone."""

    def replay(self, query: HistoryQuery) -> AsyncIterator[Entry]:
        """Replay."""


async def entries(world: HistoryWorld, query: HistoryQuery) -> list[Entry]:
    return [entry async for entry in world.replay(query)]


async def events(world: HistoryWorld, query: HistoryQuery) -> list[object]:
    return [one.event for one in await entries(world, query) if isinstance(one, Delivery)]


class HistoryContract:
    """Cases of any replay; a subclass gives the `world` fixture."""

    @pytest.fixture
    async def bus(self, world: HistoryWorld) -> AsyncIterator[EventBus]:
        async with world.bus() as bus:
            yield bus

    async def test_empty_topics_replay_to_nothing(self, world: HistoryWorld) -> None:
        assert await entries(world, HistoryQuery()) == []

    async def test_a_partition_that_there_is_not_is_told_with_those_there_are(
        self, world: HistoryWorld
    ) -> None:
        found = f"there are {world.settings.partitions} partitions"
        with pytest.raises(NoSuchPartition, match=f"no partition 99: {found}"):
            await entries(world, HistoryQuery(partition=99))

    async def test_a_partition_that_is_not_the_user_s_replays_to_nothing(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        await bus.publish(cost("ada"))
        partitions = world.settings.partitions
        elsewhere = (home_partition("ada", partitions) + 1) % partitions
        query = HistoryQuery(
            topics=(COSTS,), wanted=EventFilter(user_id="ada"), partition=elsewhere
        )
        assert await entries(world, query) == []

    async def test_partitions_are_merged_by_time_and_keep_their_own_order(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        for turn in range(6):
            await bus.publish_batch([token(turn * 100 + at, user=f"user-{at}") for at in range(50)])
            await bus.publish(cost(f"user-{turn}"))
        replayed = await entries(world, HistoryQuery())
        assert len(replayed) == 306
        times = [one.at_ms for one in replayed]
        assert times == sorted(times)
        strands: dict[tuple[str, int], list[int]] = {}
        for one in replayed:
            place = (one.address.topic, one.address.partition)
            strands.setdefault(place, []).append(one.address.offset)
        assert all(offsets == list(range(len(offsets))) for offsets in strands.values())

    async def test_more_than_is_held_ahead_is_replayed_whole(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        written = [token(seq, user=f"user-{seq % 7}") for seq in range(5000)]
        await bus.publish_batch(written)
        replayed = await events(world, HistoryQuery(topics=(TOKENS,)))
        assert len(replayed) == len(written)
        assert {one.event_id + one.user_id for one in written} == {
            getattr(one, "event_id", "") + getattr(one, "user_id", "") for one in replayed
        }

    async def test_of_what_is_parked_it_shows_what_waits_for_a_template_unless_all_is_asked_for(
        self, world: HistoryWorld
    ) -> None:
        ids: dict[str, Any] = {"user_id": "ada", "request_id": "r1", "session_id": "s1"}
        asked = making.resolved(**ids)
        decided = making.decision(**ids, admitted=True, source=asked.source)
        parked = RunParked(**ids, at_ms=1, request=asked, decision=decided, order=0)
        wanted = TemplateWait(template="own", version="1", since_ms=1)
        lacking = parked.model_copy(update={"waits_for": wanted, "at_ms": 2})
        home = home_partition("ada", 4)
        for one in (parked, lacking):
            await world.put(PARKED, home, one.model_dump_json().encode(), key=b"r1")
        await world.put(PARKED, home, None, key=b"r1")
        assert await entries(world, HistoryQuery()) == await entries(
            world, HistoryQuery(topics=(PARKED,), offset_from=1)
        )
        assert await events(world, HistoryQuery()) == [lacking]
        assert await events(world, HistoryQuery(topics=(PARKED,))) == [parked, lacking]

    async def test_replay_is_of_the_user_the_session_or_the_request_asked_for(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        of_grace = token(0, user="grace")
        of_session = token(1, session="s2", request="r2")
        await bus.publish_batch([of_grace, token(0), of_session, cost()])

        async def found(wanted: EventFilter) -> list[object]:
            return await events(world, HistoryQuery(wanted=wanted))

        assert await found(EventFilter(user_id="grace")) == [of_grace]
        assert await found(EventFilter(session_id="s2")) == [of_session]
        assert await found(EventFilter(user_id="ada", request_id="r2")) == [of_session]
        assert await found(EventFilter(types=frozenset({"cost"}))) == [cost()]

    async def test_replay_is_of_the_offsets_asked_for(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        (*_, address) = await bus.publish_batch([token(seq) for seq in range(10)])
        query = HistoryQuery(
            topics=(TOKENS,), partition=address.partition, offset_from=3, offset_until=6
        )
        assert await events(world, query) == [token(3), token(4), token(5)]

    async def test_replay_is_of_the_time_asked_for(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        await bus.publish(token(0))
        (first,) = await bus.history(topics=[TOKENS])

        async def clock_moved_on() -> bool:
            await bus.publish(cost())
            (newest,) = await bus.history(topics=[COSTS], limit=1)
            return newest.at_ms > first.at_ms

        await eventually(clock_moved_on)
        (second,) = await bus.history(topics=[COSTS], limit=1)
        before = await entries(world, HistoryQuery(until_ms=second.at_ms))
        after = await entries(world, HistoryQuery(since_ms=second.at_ms))
        assert all(one.at_ms < second.at_ms for one in before)
        assert first in before
        assert [one.address for one in after] == [second.address]

    async def test_what_comes_after_the_replay_began_is_not_in_it(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        await bus.publish(token(0))
        replayed = []
        async for entry in world.replay(HistoryQuery(topics=(TOKENS,))):
            replayed.append(entry)
            await bus.publish(token(1))
        assert len(replayed) == 1

    async def test_unreadable_record_is_shown_as_such(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        home = home_partition("ada", world.settings.partitions)
        await world.put(TOKENS, home, b"\xff", key=b"ada")
        await bus.publish(token(0))
        for wanted in (EventFilter(), EventFilter(user_id="ada")):
            first, second = await entries(world, HistoryQuery(wanted=wanted))
            assert isinstance(first, Unreadable)
            assert isinstance(first.error, NotJson)
            assert isinstance(second, Delivery)
        assert await entries(world, HistoryQuery(wanted=EventFilter(user_id="grace"))) == []

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (EventFilter(user_id="rita"), [0, 1, 4]),
            (EventFilter(user_id="rita", tenant="acme"), [2, 3]),
            (EventFilter(tenant="acme"), [3]),
            (EventFilter(session_id="s1"), [1, 2]),
            (EventFilter(user_id="rita", session_id="s1"), [1]),
            (EventFilter(tenant="acme", user_id="rita", session_id="s1"), [2]),
            (EventFilter(request_id="r1"), [3, 4]),
            (EventFilter(user_id="grace"), [5]),
        ],
        ids=["user", "tenants-user", "tenant", "session", "users", "tenants", "request", "other"],
    )
    async def test_dead_letters_are_of_whom_their_records_name(
        self, world: HistoryWorld, wanted: EventFilter, expected: list[int]
    ) -> None:
        for offset, (key, value) in enumerate(NAMING):
            record = InputRecord(
                topic=world.settings.topic(REQUESTS.name),
                partition=0,
                offset=offset,
                timestamp=1,
                key=key,
                value=value,
                headers=(),
            )
            letter = dead_letter(record, WrongShape("why"), at_ms=1)
            await world.put(DEAD_LETTERS, 0, letter.model_dump_json().encode(), key=b"unknown")
            if value is not None:
                await world.put(TOKENS, 0, b"[]" if value == b"junk" else value, key=key)
        for topics in ((DEAD_LETTERS,), HISTORY_TOPICS):
            found = await events(world, HistoryQuery(topics=topics, wanted=wanted))
            sources = [one.source.offset for one in found if isinstance(one, DeadLetter)]
            assert sources == expected
        # What cannot be read of a topic is asked for by the same; here at one partition for all.
        unread = await entries(world, HistoryQuery(topics=(TOKENS,), partition=0))
        assert [n for n, one in enumerate(unread) if wanted_of(wanted, one)] == expected

    async def test_a_dead_letter_is_found_by_the_address_that_is_its_requests_id(
        self, world: HistoryWorld
    ) -> None:
        source = making.record(b"{}").address
        letter = dead_letter(making.record(b"{}"), WrongShape("why"), at_ms=1)
        await world.put(DEAD_LETTERS, 0, letter.model_dump_json().encode())
        wanted = EventFilter(request_id=str(source))
        assert await events(world, HistoryQuery(wanted=wanted)) == [letter]

    @pytest.mark.parametrize("spec", [REQUESTS, *COMMAND_TOPICS], ids=lambda spec: spec.name)
    async def test_what_lanes_bury_for_its_size_is_shown_as_unreadable(
        self, world: HistoryWorld, spec: TopicSpec
    ) -> None:
        home = home_partition("ada", world.settings.partitions)
        value = json.dumps(INPUTS[spec.name] | {"user_id": "ada"}).encode()
        for large in (b"", b" " * INPUT_BYTES_MAX):
            await world.put(spec, home, value + large, key=b"ada")
        await world.put(spec, home, value, key=b"ada", headers=(("x", b"x" * INPUT_BYTES_MAX),))
        query = HistoryQuery(topics=(spec,), wanted=EventFilter(user_id="ada"))
        first, *rest = await entries(world, query)
        assert isinstance(first, Delivery)
        assert [one.error.code for one in rest if isinstance(one, Unreadable)] == [
            "record_too_large"
        ] * 2

    async def test_request_that_was_put_right_is_shown_once_under_its_first_id(
        self, world: HistoryWorld
    ) -> None:
        home = home_partition("ada", world.settings.partitions)
        elsewhere = (home + 1) % world.settings.partitions
        value = b'{"user_id": "ada", "input": "hello"}'
        source = await world.put(REQUESTS, elsewhere, value, key=b"other")
        origin = Origin(source=source).model_dump_json().encode()
        await world.put(REQUESTS, home, value, key=b"ada", headers=((ORIGIN, origin),))
        for wanted in (EventFilter(), EventFilter(user_id="ada")):
            (request,) = await events(world, HistoryQuery(wanted=wanted))
            assert isinstance(request, ResolvedRequest)
            assert request.request_id == str(source)
            assert request.source == source
        by_id = HistoryQuery(wanted=EventFilter(request_id=str(source)))
        assert len(await events(world, by_id)) == 1

    async def test_command_that_was_rerouted_is_shown_once_and_says_where_it_came(
        self, world: HistoryWorld
    ) -> None:
        home = home_partition("ada", world.settings.partitions)
        elsewhere = (home + 1) % world.settings.partitions
        value = b'{"user_id": "ada", "command": "pause", "request_id": "r"}'
        source = await world.put(CONTROL, elsewhere, value, key=b"other")
        origin = Origin(source=source).model_dump_json().encode()
        moved = await world.put(CONTROL, home, value, key=b"ada", headers=((ORIGIN, origin),))
        (first,) = await entries(world, HistoryQuery())
        assert isinstance(first, Delivery)
        # Records of one millisecond come in the order of their partitions.
        assert (first.address, first.came_as) in {(source, None), (moved, source)}
        (at_home,) = await entries(world, HistoryQuery(wanted=EventFilter(user_id="ada")))
        assert isinstance(at_home, Delivery)
        assert (at_home.address, at_home.came_as) == (moved, source)

    async def test_limit_gives_the_newest_of_what_is_asked_for(
        self, world: HistoryWorld, bus: EventBus
    ) -> None:
        for seq in range(0, 1200, 100):
            await bus.publish_batch(
                [token(seq + at, user=f"user-{at % 7}") for at in range(100)] + [cost("user-1")]
            )
        home = home_partition("user-1", world.settings.partitions)
        mine = token(7000, user="user-1").model_dump_json().encode()
        await world.put(TOKENS, home, mine, key=b"another")
        await world.put(TOKENS, home, b"junk", key=b"user-1")
        for wanted in (
            EventFilter(),
            EventFilter(user_id="user-1"),
            EventFilter(user_id="user-1", request_id="r1"),
            EventFilter(types=frozenset({"cost"})),
        ):
            whole = await entries(world, HistoryQuery(wanted=wanted))
            for limit in (1, 20, 5_000):
                newest = await entries(world, HistoryQuery(wanted=wanted, limit=limit))
                assert [one.address for one in newest] == [one.address for one in whole[-limit:]]

    async def test_a_user_s_record_under_another_key_is_shown(self, world: HistoryWorld) -> None:
        home = home_partition("ada", world.settings.partitions)
        for user, key in (("ada", b"grace"), ("grace", b"ada")):
            value = token(0, user=user).model_dump_json().encode()
            await world.put(TOKENS, home, value, key=key)
        (shown,) = await events(world, HistoryQuery(wanted=EventFilter(user_id="ada")))
        assert shown == token(0)

    async def test_forged_origin_makes_no_other_request_vanish(self, world: HistoryWorld) -> None:
        home = home_partition("ada", world.settings.partitions)
        value = b'{"user_id": "ada", "input": "one"}'
        first = await world.put(REQUESTS, home, value, key=b"ada")
        origin = Origin(source=first).model_dump_json().encode()
        forged = b'{"user_id": "ada", "input": "two"}'
        await world.put(REQUESTS, home, forged, key=b"ada", headers=((ORIGIN, origin),))
        inputs = [
            one.input
            for one in await events(world, HistoryQuery(topics=(REQUESTS,)))
            if isinstance(one, AgentRequest)
        ]
        assert inputs == ["one", "two"]
