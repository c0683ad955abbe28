"""The lane's state is the same fold live and restored."""

from __future__ import annotations

import json

import pytest

from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.base import Address, Event, Reason
from millstream.schemas.events import (
    AgentResult,
    Decision,
    SessionUpdated,
)
from millstream.schemas.lane_events import LaneOpened, RunParked
from millstream.streams.lane.state.folds import SnapshotBody, packed
from millstream.streams.lane.state.lane_state import LaneState
from tests import making

pytestmark = pytest.mark.rule(6)

HERE = Address(topic="requests", partition=0, offset=7)
KEY = ("default", "ada", "r1")
DIGEST = "00000000000000ab"


def state(stage: str = "chain", *, hands_over: bool = False) -> LaneState:
    return LaneState(stage, build_pipeline(), hands_over=hands_over)


def decision(request_id: str = "r1", *, admitted: bool = True, stage: str = "chain") -> Decision:
    return making.decision(
        request_id=request_id,
        at_ms=1000,
        stage=stage,
        admitted=admitted,
        request_digest=DIGEST,
        source=HERE,
    )


def result(request_id: str = "r1", *, at_ms: int = 2000) -> AgentResult:
    return making.result(request_id=request_id, at_ms=at_ms, source=HERE, accepted_at_ms=1000)


def opened(generation: int, *, stage: str = "chain") -> LaneOpened:
    return making.opened(stage=stage, generation=generation)


def session_head(turn: int) -> SessionUpdated:
    return making.head(turn)


def restored(*events: Event, stage: str = "chain", hands_over: bool = False) -> LaneState:
    folded = state(stage, hands_over=hands_over)
    for offset, event in enumerate(events):
        folded.restore(event, offset)
    return folded


def test_a_request_that_was_admitted_and_has_no_result_is_still_to_be_run() -> None:
    folded = restored(decision())
    assert folded.decided == {KEY: decision()}
    assert not folded.is_finished(KEY)


def test_a_request_with_a_result_is_finished() -> None:
    folded = restored(decision(), result())
    assert folded.is_finished(KEY)
    assert not folded.decided


def test_users_who_stand_under_one_key_are_two() -> None:
    of_tenant = result().model_copy(update={"tenant": "acme"})
    slashed = result().model_copy(update={"user_id": "acme/ada"})
    assert of_tenant.partition_key == slashed.partition_key
    folded = restored(of_tenant)
    assert folded.is_finished(("acme", "ada", "r1"))
    assert not folded.is_finished(("default", "acme/ada", "r1"))


def test_a_request_that_was_rejected_is_finished_by_its_decision() -> None:
    assert restored(decision(admitted=False)).is_finished(KEY)


def test_a_stage_that_hands_over_is_through_with_what_it_decided() -> None:
    folded = restored(decision(), hands_over=True)
    assert folded.is_finished(KEY)
    assert not folded.decided


def test_what_another_stage_decided_and_who_owned_it_is_not_this_stages() -> None:
    folded = restored(decision(stage="executor"), opened(7, stage="executor"))
    assert (folded.generation, folded.decided, len(folded.seen)) == (0, {}, 0)


def test_the_generation_is_the_highest_that_was_announced() -> None:
    assert restored(opened(2), opened(5), opened(3)).generation == 5


def test_the_newest_head_of_a_session_stands() -> None:
    folded = restored(session_head(1), session_head(2))
    assert folded.heads.get(("default", "ada", "s")) == session_head(2)


def test_a_dead_letter_keeps_its_record_from_being_buried_twice() -> None:
    letter = making.dead_letter(reason=Reason(code="not_json", message="x"), source=HERE, at_ms=5)
    assert restored(letter).is_buried(HERE)


@pytest.mark.parametrize(
    "events",
    [(decision(),), (decision(), result()), (decision(admitted=False),)],
    ids=["open", "ended", "rejected"],
)
def test_what_was_asked_under_an_id_is_known_from_its_decision_on(
    events: tuple[Event, ...],
) -> None:
    folded = restored(*events)
    assert folded.asked(KEY) == DIGEST
    assert folded.asked(("default", "ada", "r2")) is None


def test_what_was_asked_is_not_known_of_a_request_without_a_decision() -> None:
    assert restored(result()).asked(KEY) is None


@pytest.mark.promise("P8")
def test_live_and_restored_are_one_fold() -> None:
    events = (decision(), decision("r2"), result(), session_head(1))
    live = state()
    for offset, event in enumerate(events):
        live.pipeline.fold(event)  # as what makes the event does, before it is committed
        live.apply(event, offset)
    again = restored(*events)
    assert live.digests() == again.digests()
    assert live.digest() == again.digest()
    assert live.decided == {("default", "ada", "r2"): decision("r2")}
    assert live.is_finished(KEY)


def test_a_parked_request_is_known_alike_by_its_event_and_by_its_reader() -> None:
    parked = RunParked(
        user_id="ada",
        request_id="r1",
        session_id="s",
        request=making.request(input="hi").resolved(HERE, 1000),
        decision=decision(),
        order=7,
    )
    by_event, by_reader = restored(decision()), restored(decision())
    assert by_event.digests() == by_reader.digests()
    by_event.apply(parked, 0)
    assert by_event.digests() != by_reader.digests()
    by_reader.park(KEY, DIGEST)
    assert by_event.digests() == by_reader.digests()
    assert by_event.parked == {KEY: DIGEST}


def test_a_snapshot_of_before_it_told_more_is_loaded() -> None:
    before = restored(decision(), decision("r2"), result("r2"), session_head(1))
    told = before.folds.state(before_commit=True) | before.folds.state(before_commit=False)
    entries = {name: told[name] for name in before.folds.entries}
    assert told.keys() - entries.keys() == {
        "decided_until_ms",
        "again_ids",
        "ids_since_ms",
        "ids_forgotten_ms",
        "ids_lost_ms",
        "layers_folded_under",
    }
    after = state()
    refolds = after.folds.load(SnapshotBody(json.loads(packed(entries))))
    assert [one.name for one in refolds] == ["cost", "rate_limit"]
    assert after.decided == before.decided
    assert after.is_finished(("default", "ada", "r2"))
    assert after.decided_until_ms == 0


@pytest.mark.parametrize(("before_ms", "kept"), [(1999, 2), (2000, 2), (2001, 1), (3001, 0)])
def test_ids_older_than_the_window_are_forgotten(before_ms: int, kept: int) -> None:
    folded = restored(result("r1"), result("r2", at_ms=3000))
    folded.forget_before(before_ms)
    assert len(folded.seen) == kept
