"""What a lane holds in memory for each thing that it remembers, in bytes that Python allocated.

No Kafka: what a lane keeps is made here as its own code makes it, of records with short ids, and
`tracemalloc` counts. Last, how long it takes to read the head of a session when a lane opens.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

from benchmarks.report import Figure
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.events import SessionUpdated
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.topics import SESSIONS
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.overflow.deferral import Deferral
from millstream.streams.lane.queue.waiting_line import Ticket, WaitingLine
from millstream.streams.lane.state.ids.digests import users_id
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import HOLDS_MAX, Pauses
from millstream.streams.lane.state.restore import fold_record
from millstream.streams.lane.state.seen_ids import IDS_MAX, SeenIds
from millstream.streams.lane.state.sessions.recent import SESSIONS_IN_MEMORY
from millstream.streams.wire.codec import encode
from millstream.streams.wire.records import InputRecord

__all__ = ["run"]

HEADS = 50_000
WAITING = 50_000
DEFERRED = 1_000_000
_USERS = 1000
_NOW_MS = 1_790_000_000_000
_DIGEST = "00000000000000ab"


def run() -> Iterator[Figure]:
    """Measure in this process."""
    yield Figure("memory_per_remembered_id", _bytes_each(IDS_MAX, _remembered), "B")
    yield Figure("memory_per_session_head", _bytes_each(HEADS, _heads), "B")
    yield Figure("memory_per_idle_session", _bytes_each(HEADS, _idle), "B")
    yield Figure("memory_per_waiting_request", asyncio.run(_waiting_bytes()), "B")
    yield Figure("memory_per_deferred_request", _bytes_each(DEFERRED, _deferred), "B")
    yield Figure("memory_per_user_deferred", _bytes_each(_USERS, _users_deferred), "B")
    yield Figure("memory_per_hold", _bytes_each(HOLDS_MAX, _held), "B")
    records = [_head_record(number) for number in range(HEADS)]
    yield Figure("size_per_session_head", sum(map(_size_bytes, records)) / HEADS, "B")
    began = time.process_time()
    _folded(records)
    yield Figure("time_per_session_head", (time.process_time() - began) / HEADS * 1e6, "us of CPU")


def _bytes_each(count: int, make: Callable[[int], object]) -> float:
    """Give what each of `count` takes of what `make` gives, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = make(count)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        del made
    finally:
        tracemalloc.stop()
    return (after - before) / count


def _remembered(count: int) -> SeenIds:
    seen = SeenIds()
    for number in range(count):
        key = users_id("default", f"user-{number % _USERS}", f"request-{number}")
        seen.add(key, _NOW_MS + number, key & 0xFFFF_FFFF_FFFF_FFFF)
        if number % _USERS == 0:
            seen.forget_before(0)  # as after each commit: full chunks are sealed
    return seen


def _state(sessions_in_memory: int = SESSIONS_IN_MEMORY) -> LaneState:
    return LaneState(
        "chain", build_pipeline(), hands_over=False, sessions_in_memory=sessions_in_memory
    )


def _head_record(number: int) -> InputRecord:
    head = SessionUpdated(
        user_id=f"user-{number % _USERS}",
        request_id=f"request-{number}",
        session_id=f"session-{number}",
        at_ms=_NOW_MS,
        checkpoint_id=f"01927d5e-0000-7000-8000-{number:012}",
        checkpoint_offset_min=number,
        turn=1,
        created_at_ms=_NOW_MS,
    )
    encoded = encode(head, source="/bench")
    return InputRecord("sessions", 0, number, _NOW_MS, encoded.key, encoded.value, ())


def _size_bytes(record: InputRecord) -> int:
    return len(record.key or b"") + len(record.value or b"")


def _folded(records: list[InputRecord]) -> LaneState:
    state = _state()
    for record in records:
        fold_record(state, record, SESSIONS)
    return state


def _heads(count: int) -> LaneState:
    return _with_heads(_state(count), count)


def _idle(count: int) -> LaneState:
    return _with_heads(_state(1), count)


def _with_heads(state: LaneState, count: int) -> LaneState:
    for number in range(count):
        fold_record(state, _head_record(number), SESSIONS)
    return state


async def _waiting_bytes() -> float:
    return _bytes_each(WAITING, _waiting)


def _waiting(count: int) -> Any:
    """Give what a lane has of requests that it took over parked."""
    state = _state()
    in_flight = InFlightRequests(state=state, writer=cast("Any", None), clock_ms=lambda: _NOW_MS)
    line = WaitingLine(lambda _: False)
    loop = asyncio.get_running_loop()
    for number in range(count):
        user = f"user-{number % _USERS}"
        key = ("default", user, f"request-{number}")
        asked = f"{int(_DIGEST, 16) + number:016x}"
        state.park(key, asked)
        in_flight.register(key, asked)
        stands_at: asyncio.Future[int] = loop.create_future()
        stands_at.set_result(number)
        session = ("default", user, f"session-{number}")
        line.join(Ticket(key, session, number, stands_at, restored=True))
    return state, in_flight, line


def _deferred(count: int) -> Deferral:
    deferral = Deferral(("default", "user"), 0, from_ms=0)
    for offset in range(count):
        deferral.add(offset)
    return deferral


def _users_deferred(count: int) -> list[Deferral]:
    deferrals = []
    for number in range(count):
        deferrals.append(Deferral(("default", f"user-{number}"), number, from_ms=number))
        deferrals[-1].add(number)
    return deferrals


def _held(count: int) -> Pauses:
    pauses = Pauses()
    for number in range(count):
        user = f"user-{number % _USERS}"
        pauses.add(HoldPlaced(user_id=user, request_id=f"request-{number}"))
    return pauses
