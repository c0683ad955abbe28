"""What a lane says of a request carries the request's identity."""

from __future__ import annotations

from millstream.schemas.errors import RateLimited
from millstream.schemas.events import CheckpointSaved, ResolvedRequest
from millstream.schemas.reasons import result_of
from millstream.schemas.topics import stage_topic
from millstream.streams.lane.output import outcomes
from millstream.streams.wire.records import read_request
from tests import making
from tests.making import record


def request() -> ResolvedRequest:
    return read_request(
        record({"user_id": "ada", "tenant": "acme", "input": "x", "metadata": {"a": "b"}})
    )


def test_a_refusal_is_a_decision_at_the_brokers_time() -> None:
    refused = outcomes.refusal(
        request(), RateLimited("slow down", retry_after_s=3), stage="chain", generation=4
    )
    assert (refused.tenant, refused.user_id, refused.at_ms) == ("acme", "ada", 5000)
    assert (refused.admitted, refused.stage, refused.generation) == (False, "chain", 4)
    assert refused.reason is not None
    assert (refused.reason.code, refused.reason.retry_after_s) == ("rate_limited", 3)


def test_a_result_of_the_lane_gives_the_upstream_its_metadata_back() -> None:
    result = result_of(request(), at_ms=9000, status="rejected")
    assert (result.request_id, result.metadata) == ("requests-2-7", {"a": "b"})
    assert (result.accepted_at_ms, result.at_ms) == (5000, 9000)


def test_what_is_handed_on_adds_up_layers_and_reservations() -> None:
    asked = request()
    decision = outcomes.refusal(asked, RateLimited("x", retry_after_s=1), stage="a", generation=1)
    first = decision.model_copy(update={"passed": ("auth",), "reserved_micros": 3})
    second = decision.model_copy(update={"passed": ("cost",), "reserved_micros": 4})
    once = outcomes.stage_request(asked, first, None, stage_topic("cost"))
    twice = outcomes.stage_request(asked, second, once, stage_topic("executor"))
    assert (once.stage, twice.stage) == ("cost", "executor")
    assert (twice.passed, twice.reserved_micros) == (("auth", "cost"), 7)
    assert twice.request == asked


def test_a_session_keeps_the_time_it_was_begun() -> None:
    def saved(turn: int) -> CheckpointSaved:
        return making.checkpoint(turn, at_ms=turn * 10)

    first = outcomes.session_head(saved(1), None, offset_min=4)
    second = outcomes.session_head(saved(2), first, offset_min=9)
    assert (first.created_at_ms, second.created_at_ms, second.at_ms) == (10, 10, 20)
    assert (second.checkpoint_id, second.checkpoint_offset_min, second.turn) == ("c2", 9, 2)
