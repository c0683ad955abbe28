"""Whatever numbers stand on topics that lanes write, a lane opens over them and serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count, product
from typing import Any

import pytest
from aiokafka import TopicPartition
from pydantic import ValidationError

from millstream.schemas.base import Event
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import (
    HoldPlaced,
    LaneSnapshot,
    RequestsDeferred,
    RunParked,
    SnapshotHeader,
)
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import (
    NamedCheckpoint,
    SessionAnswered,
    SessionBarrier,
    SessionState,
)
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    DEFERRED,
    HOLDS,
    JOURNAL,
    LANES,
    OBEYED,
    PARKED,
    RESERVATIONS,
    RESULTS,
    SESSION_ANSWERS,
    SESSION_COMMANDS,
    SESSION_STATES,
    SESSIONS,
    SNAPSHOTS,
    TopicSpec,
)
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.harness.memory_lanes import MemoryLanes, running_lanes, upstream
from tests.making.events import IDS, SOURCE
from tests.support import eventually

GENERATION_MAX = 10**12
EPOCH_MS_MAX = 253402300799999
ABSURD = (
    *(2**31, 2**40, 2**53 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 10**18, 10**30, 10**400),
    *(EPOCH_MS_MAX, EPOCH_MS_MAX - 1, EPOCH_MS_MAX + 1, GENERATION_MAX, 10**9 * 31_557_600_000),
    *(0, -1, -(2**63), 999, 1000, 1_000_000),
)


def parked() -> RunParked:
    return RunParked(
        **IDS,
        request=making.resolved("say: parked"),
        decision=making.decision(),
        order=0,
        spent_on={"m": {"input_tokens": 1}},
        journal_from=0,
    )


def snapshot() -> LaneSnapshot:
    header = SnapshotHeader(
        logs={"decisions": 0},
        state_parts=1,
        state_digest="d",
        chunks=((0, 0, "d"),),
        folded_under="p",
    )
    return LaneSnapshot(stage="chain", partition=0, generation=1, part="header", header=header)


def state() -> SessionState:
    named = NamedCheckpoint(name="n", checkpoint_id="c1", turn=1, offset_min=0)
    return SessionState(
        user_id="ada",
        session_id="s",
        revision=1,
        created_at_ms=1,
        since_ms=1,
        active_at_ms=1,
        ttl=SessionTtl(idle_s=2_592_000, total_s=31_536_000),
        names=(named,),
        barrier=SessionBarrier(before_offset=0, until_ms=0),
    )


MAKE: dict[TopicSpec, Callable[[], Event]] = {
    ATTEMPTS: making.attempt,
    CHECKPOINTS: making.checkpoint,
    COSTS: making.cost,
    DEAD_LETTERS: making.dead_letter,
    DECISIONS: making.decision,
    DEFERRED: lambda: RequestsDeferred(user_id="ada", input="memory.requests", from_offset=0),
    HOLDS: lambda: HoldPlaced(user_id="ada", session_id="elsewhere"),
    JOURNAL: lambda: JournalStep(
        **IDS, attempt=1000, step=0, kind="answered", used=({"usage": {}},), moments={"m": 1}
    ),
    LANES: making.opened,
    OBEYED: lambda: making.obeyed(session_id="s", until_ms=1),
    PARKED: parked,
    RESERVATIONS: lambda: CallReserved(
        **IDS, attempt=1000, call=1, model="m", usage_max={}, reserved_micros=0, price_digest="d"
    ),
    RESULTS: making.result,
    SESSION_ANSWERS: lambda: SessionAnswered(
        user_id="ada", command_id="c", operation="touch", source=SOURCE, session=state()
    ),
    SESSION_STATES: state,
    SESSIONS: making.head,
    SNAPSHOTS: snapshot,
}


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give where in a JSON value numbers stand."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from numbers_in(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers_in(inner, (*path, index))
    elif isinstance(value, int) and not isinstance(value, bool) and path[-1] != "schema_version":
        yield path


def whole(event: Event) -> dict[str, Any]:
    """Give an event as JSON with a number in each field that may hold one."""
    body: dict[str, Any] = json.loads(event.model_dump_json())
    for name, field in type(event).model_fields.items():
        if body.get(name) is None and "int" in str(field.annotation):
            body[name] = 1
    return {name: value for name, value in body.items() if value is not None}


def changed(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Give a copy of a JSON value with another number at a path."""
    copy = json.loads(json.dumps(body))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copy


def named(event: Event, body: dict[str, Any], number: int, user: str) -> tuple[str, dict[str, Any]]:
    """Give a record's key and value under ids of its own, so that none replaces another."""
    ids = {"user_id": user, "request_id": f"old-{number}", "session_id": f"s{number}"}
    own = {name: one for name, one in ids.items() if name in body}
    body = body | own
    if "request" in body:
        body["request"] = body["request"] | ids
    keyed = event.model_copy(update=own)
    return keyed.record_key, body


def at_home(world: MemoryLanes) -> Iterator[str]:
    """Give users whose home is ada's."""
    partitions = world.settings.partitions
    home = home_partition("ada", partitions)
    names = (f"n{number}" for number in count())
    return (one for one in names if home_partition(one, partitions) == home)


async def serve(world: MemoryLanes, users: Mapping[str, str], turn: int) -> None:
    """Require that requests and commands are served in these sessions, each of a user."""
    wanted = {f"{session}-{turn}" for session in users}
    async with running_lanes(world), upstream(world) as program:
        for session, user in users.items():
            name, ids = f"{session}-{turn}", {"user_id": user, "session_id": session}
            asked = {**ids, "request_id": name, "input": "say: served"}
            await program.publish(asked, key=user.encode())
            touch = {**ids, "command_id": name, "operation": "touch"}
            topic = world.topic(SESSION_COMMANDS)
            await program.publish(touch, key=user.encode(), topic=topic)
        await eventually(lambda: wanted <= told(world, RESULTS, "request_id"))
        await eventually(lambda: wanted <= told(world, SESSION_ANSWERS, "command_id"))


def told(world: MemoryLanes, spec: TopicSpec, name: str) -> set[str]:
    """Give the ids that a lane's records of a topic tell."""
    records = [one for where in world.places(spec) for one in world.broker.records(where)]
    return {json.loads(one.value or b"{}").get(name) for one in records if one.headers}


@pytest.mark.parametrize("spec", MAKE, ids=lambda spec: spec.name)
async def test_a_lane_serves_over_every_absurd_number_of_a_topic(
    world: MemoryLanes, spec: TopicSpec
) -> None:
    event = MAKE[spec]()
    body = whole(event)
    world.create_topics()
    where = TopicPartition(world.topic(spec), home_partition("ada", world.settings.partitions))
    users, names = {"s": next(at_home(world))}, at_home(world)
    for number, (path, value) in enumerate(product(numbers_in(body), ABSURD)):
        user = next(names) if spec is DEFERRED else "ada"
        key, changed_body = named(event, changed(body, path, value), number, user)
        world.broker.append(where, key.encode(), json.dumps(changed_body).encode())
        if "session_id" in body and number % 7 == 0:
            users[f"s{number}"] = user
    for turn in range(2):
        await serve(world, users, turn)


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("name", ["generation", "producers", "partition", "at_ms"])
async def test_a_lane_opens_and_serves_whatever_its_last_owner_said(
    world: MemoryLanes, name: str, value: int
) -> None:
    world.create_topics()
    where = TopicPartition(world.topic(LANES), home_partition("ada", world.settings.partitions))
    said = whole(making.opened()) | {name: value}
    world.broker.append(where, b"chain", json.dumps(said).encode())
    for turn in range(2):
        await serve(world, {"s": "ada"}, turn)


@pytest.mark.parametrize("spec", [DECISIONS, COSTS], ids=lambda spec: spec.name)
async def test_a_record_from_the_year_9999_makes_no_lane_forget_what_it_served(
    world: MemoryLanes, spec: TopicSpec
) -> None:
    home = home_partition("ada", world.settings.partitions)
    where = TopicPartition(world.topic(spec), home)
    await serve(world, {"s": "ada"}, 0)
    said = whole(MAKE[spec]()) | {"request_id": "r9", "at_ms": EPOCH_MS_MAX}
    world.broker.append(where, b"ada", json.dumps(said).encode())
    for turn in (1, 2):
        await serve(world, {"s": "ada"}, 0)  # the same request once more
        await serve(world, {"s": "ada"}, turn)
    records = world.broker.records(TopicPartition(world.topic(RESULTS), home))
    ids = [json.loads(one.value or b"{}")["request_id"] for one in records]
    assert sorted(ids) == ["s-0", "s-1", "s-2"]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (DECISIONS, "passed"),
        (PARKED, "effects"),
        (JOURNAL, "used"),
        (SESSION_STATES, "names"),
    ],
    ids=lambda one: getattr(one, "name", one),
)
async def test_a_list_of_more_than_ten_thousand_is_no_list_of_ours(
    spec: TopicSpec, name: str
) -> None:
    one = whole(MAKE[spec]()).get(name) or ["x"]
    spec.event.model_validate_json(json.dumps(whole(MAKE[spec]()) | {name: one * 10_000}))
    with pytest.raises(ValidationError, match="no more than 10000"):
        spec.event.model_validate_json(json.dumps(whole(MAKE[spec]()) | {name: one * 10_001}))
