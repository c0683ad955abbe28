"""One digest of what decides: equal live and restored, and another once anything differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.base import Address, Event, Reason, Usage
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    CostRecorded,
    Decision,
    SessionUpdated,
)
from millstream.schemas.lane_events import CommandObeyed, LaneOpened, RunParked
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.topics import SNAPSHOTS
from millstream.streams.lane.state.lane_state import LaneState
from tests import making
from tests.harness.deployment import Deployment
from tests.harness.writing_lane import POLICY
from tests.making import resolved

pytestmark = pytest.mark.promise("P8")

NOW_MS = 1_790_000_000_000
HERE = Address(topic="requests", partition=0, offset=7)


@pytest.mark.parametrize("refused_share", [0.0, 0.3], ids=["written", "refused"])
@pytest.mark.parametrize("window_s", [2, 86_400])
@pytest.mark.parametrize("seed", range(10))
async def test_as_of_any_offsets_a_restored_state_has_the_digest_that_the_lane_had_then(
    seed: int, window_s: int, refused_share: float
) -> None:
    deployment = Deployment(seed, snapshot_records=20, refused_share=refused_share)
    # A window as short as that cannot be set. What comes again behind it is another request.
    new_share = 1.0 if window_s == 2 else 0.6
    short = {"dedup_window_s": window_s}
    deployment.settings = deployment.settings.model_copy(update=short)
    moments: list[tuple[dict[str, int], dict[str, str], str]] = []
    for _ in range(3):
        async with deployment.lane() as lane:
            for _ in range(3):
                steps = deployment.chance.randint(5, 120)
                await lane.play(deployment.chance, steps, deployment.clock, new_share=new_share)
                await lane.settled()
                if not lane.writer.refusals_replaced:
                    break  # a lane that could not replace an outcome either is dropped
                state = lane.state
                moments.append((deployment.ends(), state.digests(), state.digest()))
    assert len({digest for _, _, digest in moments}) == len(moments)
    used = 0
    for ends, digests, digest in moments:
        state, restored = await deployment.restored(upto=ends)
        used += restored.snapshot is not None
        assert state.digests() == digests
        assert state.digest() == digest
        # The newest snapshot knows more than was asked for: then all is folded from topics.
        logs = {name: end for name, end in ends.items() if name != SNAPSHOTS.name}
        again, _ = await deployment.restored(upto=logs)
        assert again.digests() == digests
        assert (await deployment.restored(upto=logs))[0].digest() == digest
    assert used or refused_share


def state(events: Sequence[Event] = ()) -> LaneState:
    folded = LaneState("chain", build_pipeline(POLICY), hands_over=False)
    for event in events:
        # Where a head stands says which one it is: no record ever changes.
        folded.restore(event, event.turn if isinstance(event, SessionUpdated) else 0)
    return folded


def of(request_id: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": "ada", "request_id": request_id, "session_id": "s", **fields}


def decision(request_id: str, **fields: Any) -> Decision:
    given = {
        "at_ms": NOW_MS,
        "admitted": True,
        "passed": ("auth", "cost", "rate_limit"),
        "reserved_micros": 100,
        "request_digest": "00000000000000ab",
        "generation": 1,
        "source": HERE,
    }
    return making.decision(**of(request_id, **given | fields))


def attempt(request_id: str, **fields: Any) -> AttemptStarted:
    given = {
        "at_ms": NOW_MS,
        "attempt": 1000,
        "model": "local",
        "usage_max": Usage(output_tokens=9),
        "reserved_micros": 100,
        "price_digest": "d",
    }
    return making.attempt(**of(request_id, **given | fields))


def reservation(request_id: str, **fields: Any) -> CallReserved:
    given = {
        "at_ms": NOW_MS,
        "attempt": 1000,
        "call": 1,
        "model": "local",
        "usage_max": Usage(output_tokens=9),
        "reserved_micros": 109,
        "price_digest": "d",
    }
    return CallReserved(**of(request_id, **given | fields))


def cost(request_id: str, **fields: Any) -> CostRecorded:
    given = {
        "at_ms": NOW_MS,
        "attempt": 1000,
        "model": "local",
        "usage": Usage(output_tokens=9),
        "cost_micros": 9,
        "price_digest": "d",
    }
    return making.cost(**of(request_id, **given | fields))


def result(request_id: str, **fields: Any) -> AgentResult:
    given = {"at_ms": NOW_MS, "status": "completed", "source": HERE, "accepted_at_ms": NOW_MS}
    return making.result(**of(request_id, **given | fields))


def head(session_id: str, turn: int) -> SessionUpdated:
    return making.head(
        request_id="r",
        session_id=session_id,
        at_ms=NOW_MS,
        checkpoint_id=f"c{turn}",
        checkpoint_offset_min=turn,
        turn=turn,
        created_at_ms=NOW_MS,
    )


def obeyed(offset: int, **fields: Any) -> CommandObeyed:
    source = Address(topic="control", partition=0, offset=offset)
    return making.obeyed(user_id="ada", command="cancel", at_ms=NOW_MS, source=source, **fields)


def letter(offset: int) -> DeadLetter:
    return making.dead_letter(
        reason=Reason(code="not_json", message="no"),
        source=Address(topic="requests", partition=0, offset=offset),
        source_at_ms=NOW_MS,
        at_ms=NOW_MS,
    )


def parked(request_id: str, **fields: Any) -> RunParked:
    asked = resolved(request_id)
    decided = decision(request_id, **fields)
    return RunParked(**of(request_id), request=asked, decision=decided, order=0)


def opened(generation: int, stage: str = "chain") -> LaneOpened:
    return making.opened(stage=stage, generation=generation)


HISTORY: tuple[Event, ...] = (
    opened(1),
    head("s", 1),
    decision("open"),
    decision("ended"),
    decision("running"),
    decision("waiting"),
    attempt("ended"),
    attempt("running"),
    cost("ended"),
    result("ended", cost_micros=9),
    obeyed(1, session_id="s", until_ms=NOW_MS),
    letter(1),
    parked("waiting"),
)

BOTH = {"requests", "layers"}

CHANGES: dict[str, tuple[int | None, Event, set[str]]] = {
    "generation": (None, opened(2), {"generation"}),
    "head of a session": (None, head("s", 2), {"session_places"}),
    "head of another session": (None, head("t", 1), {"session_places"}),
    "checkpoint that a head names": (1, head("s", 3), {"session_places"}),
    "open request": (None, decision("more", passed=()), {"requests"}),
    "layers that an open request passed": (
        2,
        decision("open", passed=("auth",)),
        BOTH,
    ),
    "what an open request asked": (2, decision("open", request_digest="0" * 16), {"requests"}),
    "what a finished request asked": (
        3,
        decision("ended", request_digest="0" * 15 + "1"),
        {"requests"},
    ),
    "what a parked request asked": (5, decision("waiting", request_digest="0" * 16), set()),
    "what a parked record says": (12, parked("waiting", request_digest="0" * 16), {"requests"}),
    "time of a request": (3, decision("ended", at_ms=NOW_MS + 1), BOTH),
    "reservation": (2, decision("open", reserved_micros=101), BOTH),
    "reservation of a run that reserved anew": (
        4,
        decision("running", reserved_micros=101),
        {"requests"},
    ),
    "user's request": (3, decision("ended", user_id="bob"), BOTH),
    "attempt": (7, attempt("running", attempt=1001), {"layers", "attempts"}),
    "most that an attempt costs": (
        7,
        attempt("running", reserved_micros=200),
        {"layers", "attempts"},
    ),
    "what a further call may cost": (None, reservation("running"), {"layers", "attempts"}),
    "what an attempt cost": (None, cost("running"), {"layers", "attempts"}),
    "what was spent": (8, cost("ended", cost_micros=8), {"layers"}),
    "end of a request": (None, result("open"), BOTH),
    "cancel": (None, obeyed(2, session_id="t", until_ms=NOW_MS), {"cancelled", "requests"}),
    "time of a cancel": (10, obeyed(1, session_id="s", until_ms=NOW_MS + 1), {"cancelled"}),
    "command": (None, obeyed(2, request_id="r"), {"requests"}),
    "dead letter": (11, letter(2), {"requests"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_remembered_changes_the_digest(change: str) -> None:
    place, event, folds = CHANGES[change]
    events = list(HISTORY)
    if place is None:
        events.append(event)
    else:
        events[place] = event
    before, after = state(HISTORY), state(events)
    differ = {name for name, one in after.digests().items() if one != before.digests()[name]}
    assert differ == folds
    assert (after.digest() == before.digest()) is not bool(folds)


@given(st.permutations((*HISTORY[1:6], head("t", 1), head("u", 1))))
def test_a_digest_does_not_depend_on_the_order_in_which_things_were_learned(
    events: Sequence[Event],
) -> None:
    in_order = sorted(events, key=lambda event: event.event_id)
    assert state(events).digests() == state(in_order).digests()


def test_what_another_stage_announced_and_decided_is_in_no_digest() -> None:
    others = (opened(7, "executor"), decision("x", stage="executor"))
    assert state((*HISTORY, *others)).digests() == state(HISTORY).digests()


def test_ids_that_are_to_be_forgotten_and_users_who_are_idle_are_in_no_digest() -> None:
    day_ms = 86_400_000
    newer = decision("newest", user_id="bob", at_ms=NOW_MS + 3 * day_ms)
    idle, fresh = state((decision("ended", at_ms=NOW_MS), result("ended"), newer)), state((newer,))
    idle.seen.add(1, NOW_MS + 2 * day_ms)  # out of turn: those behind it stay for a while
    idle.seen.add(2, NOW_MS)
    for one in (idle, fresh):
        one.forget_before(NOW_MS + day_ms)
    assert 2 in idle.seen
    idle.forget_before(NOW_MS + 2 * day_ms + 1)
    fresh.forget_before(NOW_MS + 2 * day_ms + 1)
    assert idle.digests() == fresh.digests()
