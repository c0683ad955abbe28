"""What users spent, with figures that no run of theirs could have cost."""

from __future__ import annotations

import orjson

from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.middleware.spend.ledger import SpendLedger
from millstream.schemas.base import INT64_MAX, Usage
from millstream.schemas.events import CostRecorded
from millstream.streams.lane.state.attempt_costs import charge_attempts
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.keys import request_key
from tests.making import NOON_MS, resolved, used

PRICED = Policy.model_validate(
    {"prices": {"local": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}}}
)


def cost(request_id: str, micros: int) -> CostRecorded:
    return CostRecorded(
        user_id="ada",
        request_id=request_id,
        session_id="s",
        model="local",
        template="chat_agent",
        attempt=1000,
        usage=Usage(),
        cost_micros=micros,
        price_digest="d",
        at_ms=NOON_MS,
    )


def test_spend_beyond_64_bits_stays_at_the_largest_and_a_snapshot_holds_it() -> None:
    ledger = SpendLedger()
    for number in range(3):
        ledger.spend(cost(f"r{number}", INT64_MAX))
    account = ledger.account(("default", "ada"), NOON_MS)
    assert account.spent_micros == INT64_MAX
    again = SpendLedger()
    again.load(orjson.loads(orjson.dumps(ledger.state())))
    assert again.account(("default", "ada"), NOON_MS).spent_micros == INT64_MAX


def test_an_absurd_report_is_charged_at_no_more_than_a_record_holds() -> None:
    state = LaneState("chain", build_pipeline(PRICED), hands_over=False)
    asked = resolved()
    ended = used(2**62)
    for _ in range(3):
        charge = charge_attempts(
            state.open_attempts, state.pipeline, request_key(asked), (asked, ended)
        )
        assert 0 <= charge.micros <= INT64_MAX
        for event in charge.events:
            state.apply(event, 0)
            assert orjson.loads(event.model_dump_json())
    assert orjson.dumps(state.pipeline.states.given())
