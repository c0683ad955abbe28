from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from millstream.schemas.base import INT64_MAX, Address, Reason, Usage
from millstream.schemas.events import CostRecorded
from millstream.schemas.sessions.states import SessionChange, SessionChanged
from millstream.streams.views.aggregates import (
    MINUTES_KEPT,
    OTHER,
    Aggregate,
    cost_of,
    counts_of,
    merged,
    spend_of,
)
from tests import making
from tests.contracts.session_view_contract import state

SOURCE = Address(topic="requests", partition=0, offset=0)
IDS = {"user_id": "ada", "request_id": "r", "session_id": "s"}


def test_a_record_that_comes_again_is_not_counted_again() -> None:
    aggregate = Aggregate()
    assert aggregate.fold(4, 0, {"a|": 1})
    assert not aggregate.fold(4, 0, {"a|": 1})
    assert not aggregate.fold(2, 0, {"a|": 1})
    assert aggregate.totals == {"a|": 1}
    assert aggregate.position == 5


@given(
    deliveries=st.lists(st.integers(1, 6), min_size=1, max_size=20),
    records=st.integers(1, 30),
)
def test_any_redelivery_and_any_loss_of_memory_gives_the_count_of_the_topic(
    deliveries: list[int], records: int
) -> None:
    kept = Aggregate().to_bytes()
    aggregate = Aggregate.from_bytes(kept)
    position = 0
    for number, step in enumerate(deliveries):
        for offset in range(position, min(position + 3 * step, records)):
            aggregate.fold(offset, offset * 20_000, {"a|": offset})
        if number % 2:
            kept = aggregate.to_bytes()
        aggregate = Aggregate.from_bytes(kept)
        position = max(0, aggregate.position - step)
    for offset in range(position, records):
        aggregate.fold(offset, offset * 20_000, {"a|": offset})
    assert aggregate.totals["a|"] == sum(range(records))
    assert sum(minute["a|"] for minute in aggregate.minutes.values()) == sum(range(records))


def test_only_the_last_hour_is_kept_by_the_minute() -> None:
    aggregate = Aggregate()
    for minute in range(MINUTES_KEPT + 5):
        aggregate.fold(minute, minute * 60_000, {"a|": 1})
    assert min(aggregate.minutes) == 5
    assert len(aggregate.minutes) == MINUTES_KEPT
    assert aggregate.totals["a|"] == MINUTES_KEPT + 5


def test_a_record_older_than_the_last_hour_counts_in_total_only() -> None:
    aggregate = Aggregate()
    aggregate.fold(0, 1000 * 60_000, {"a|": 1})
    aggregate.fold(1, 60_000, {"a|": 1})
    assert aggregate.totals == {"a|": 2}
    assert aggregate.minutes == {1000: {"a|": 1}}


def test_a_flood_of_label_values_ends_in_other() -> None:
    aggregate = Aggregate()
    for number in range(1000):
        aggregate.fold(number, 0, {f"dead_letters|reason-{number}": 1})
    assert len(aggregate.totals) <= 257
    assert aggregate.totals[f"dead_letters|{OTHER}"] == 1000 - 256


def test_what_must_be_seen_again_holds_the_position_back() -> None:
    aggregate = Aggregate(offset=9, redo_from=3)
    assert Aggregate.from_bytes(aggregate.to_bytes()).position == 3


def test_a_result_falls_into_the_bucket_of_each_latency() -> None:
    event = making.result(
        **IDS,
        status="completed",
        source=SOURCE,
        accepted_at_ms=1000,
        started_at_ms=1005,
        first_token_at_ms=1006,
    )
    assert counts_of(event, at_ms=500_000, last_stage="chain") == {
        "results|completed": 1,
        "latency_ms|queue|0": 1,
        "latency_ms|queue|sum": 5,
        "latency_ms|first_token|1": 1,
        "latency_ms|first_token|sum": 6,
        "latency_ms|run|14": 1,
        "latency_ms|run|sum": 499_000,
    }


def test_a_result_that_never_ran_has_no_latency() -> None:
    event = making.result(**IDS, status="rejected", source=SOURCE, accepted_at_ms=1)
    assert counts_of(event, at_ms=9, last_stage="chain") == {"results|rejected": 1}


def test_a_request_is_admitted_by_the_last_stage_and_rejected_by_any() -> None:
    admitted = making.decision(**IDS, admitted=True, stage="chain", generation=1, source=SOURCE)
    rejected = admitted.model_copy(
        update={"admitted": False, "reason": Reason(code="forbidden", message="no")}
    )
    assert counts_of(admitted, at_ms=0, last_stage="chain") == {"requests|admitted|": 1}
    assert counts_of(admitted, at_ms=0, last_stage="executor") == {}
    assert counts_of(rejected, at_ms=0, last_stage="executor") == {"requests|rejected|forbidden": 1}


def test_session_is_counted_by_the_states_that_it_comes_into() -> None:
    created = state()
    assert counts_of(created, at_ms=0, last_stage="chain") == {"session_states|open": 1}
    touched = created.model_copy(update={"revision": 2, "at_ms": 5000})
    assert counts_of(touched, at_ms=0, last_stage="chain") == {}
    closed = state(revision=3, now="closed", at_ms=6000)
    assert counts_of(closed, at_ms=0, last_stage="chain") == {"session_states|closed": 1}
    assert counts_of(making.head(), at_ms=0, last_stage="chain") == {"session_heads|": 1}


@pytest.mark.parametrize("change", get_args(SessionChange))
def test_a_change_of_a_session_is_counted_by_its_kind(change: SessionChange) -> None:
    event = SessionChanged(
        user_id="ada", session_id="s", at_ms=1, change=change, state="open", revision=1, turn=0
    )
    assert counts_of(event, at_ms=0, last_stage="chain") == {f"session_changes|{change}": 1}


def test_a_cost_counts_money_and_tokens() -> None:
    usage = Usage(input_tokens=3, output_tokens=4)
    event = making.cost(**IDS, model="m|1", usage=usage, cost_micros=5, price_digest="d")
    assert counts_of(event, at_ms=0, last_stage="chain") == {
        "cost_micros|m|1": 5,
        "tokens|input": 3,
        "tokens|output": 4,
    }


def test_an_event_that_no_view_counts_is_refused() -> None:
    with pytest.raises(TypeError, match="AgentRequest"):
        counts_of(making.request(input=""), at_ms=0, last_stage="chain")


def test_partitions_add_up() -> None:
    one = Aggregate(offset=3, totals={"a|": 1}, minutes={1: {"a|": 1}})
    two = Aggregate(offset=9, totals={"a|": 2, "b|": 1}, minutes={1: {"a|": 2}, 2: {"b|": 1}})
    total = merged(iter((one, two)))
    assert total.totals == {"a|": 3, "b|": 1}
    assert total.minutes == {1: {"a|": 3}, 2: {"b|": 1}}


def test_figures_beyond_64_bits_stay_at_the_largest_and_say_so() -> None:
    aggregate = Aggregate()
    with capture_logs() as logs:
        for offset in range(3):
            aggregate.fold(offset, 0, {"tokens|output": INT64_MAX - 1, "results|completed": 1})
    assert aggregate.totals == {"tokens|output": INT64_MAX, "results|completed": 3}
    assert (aggregate.saturated, len(logs)) == (1, 2)  # in total, and of the minute
    again = Aggregate.from_bytes(aggregate.to_bytes())
    assert merged(iter([again, again])).totals["tokens|output"] == INT64_MAX


def cost(model: str, micros: int, tokens: int = 0) -> CostRecorded:
    return CostRecorded(
        **IDS, model=model, cost_micros=micros, usage=Usage(output_tokens=tokens), price_digest="d",
        template="t", attempt=1000,
    )  # fmt: skip


@pytest.mark.parametrize("tokens", [0, 5])
def test_a_flood_of_names_without_a_price_hides_no_model_that_has_one(tokens: int) -> None:
    aggregate = Aggregate()
    for number in range(400):
        aggregate.fold(number, 0, spend_of(cost(f"nosuch:{number}", 0, tokens)))
    aggregate = Aggregate.from_bytes(aggregate.to_bytes())
    for number in range(400, 403):
        aggregate.fold(number, 0, spend_of(cost("openai:fake", 7, 5)))
    assert aggregate.totals["cost_micros|openai:fake"] == 21
    assert aggregate.totals[f"cost_micros|{OTHER}"] == 0
    assert len(aggregate.totals) <= 257


def test_a_model_that_was_never_found_has_no_name_and_one_that_is_free_has() -> None:
    assert spend_of(cost("nosuch:1", 0))[f"cost_micros|{OTHER}"] == 0
    assert spend_of(cost("local", 0, 5))["cost_micros|local"] == 0


def flooded(micros: int) -> Aggregate:
    """Give what a flood of models' names leaves that each cost so much."""
    aggregate = Aggregate()
    for number in range(400):
        aggregate.fold(number, 0, spend_of(cost(f"openai:x{number}", micros, 5)))
    return aggregate


def test_a_name_that_breaks_lines_is_counted_under_one_that_does_not() -> None:
    # BerriAI/litellm#20600: one label with a line separator cost Datadog the whole scrape.
    assert cost_of("openai:gpt\u2028\x85 5\x1c") == "cost_micros|openai:gpt?? 5?"
    assert cost_of("ollama:модель|a") == "cost_micros|ollama:модель|a"


def test_a_flood_of_names_that_cost_something_gives_way_to_one_that_costs_more() -> None:
    aggregate = flooded(micros=3)
    assert aggregate.is_full
    for number in range(400, 410):
        aggregate.fold(number, 60_000, spend_of(cost("openai:fake", 7, 5)))
        aggregate.fold(number + 1000, 60_000, spend_of(cost(f"openai:y{number}", 3, 5)))
        aggregate.offset = number
    assert aggregate.totals["cost_micros|openai:fake"] == 70
    assert sum(n for name, n in aggregate.totals.items() if name.startswith("cost")) == 1300
    assert len(aggregate.totals) <= 257
    for minute in aggregate.minutes.values():
        assert len(minute) <= 257
        assert minute.keys() <= aggregate.totals.keys()


def test_a_model_that_the_deployment_names_is_counted_whatever_it_costs() -> None:
    aggregate = flooded(micros=1000)
    kept = {"cost_micros|openai:fake"}
    aggregate.fold(400, 0, spend_of(cost("openai:fake", 0, 5)), kept=kept)
    aggregate.fold(401, 0, spend_of(cost("openai:fake", 1, 5)), kept=kept)
    # Nor is it given up for one that costs more.
    aggregate.fold(402, 0, spend_of(cost("openai:dear", 10**9, 5)), kept=kept)
    assert aggregate.totals["cost_micros|openai:fake"] == 1
    assert aggregate.totals["cost_micros|openai:dear"] == 10**9


def test_the_first_name_beyond_the_bound_is_told() -> None:
    with capture_logs() as logs:
        flooded(micros=3)
    assert [line["event"] for line in logs] == [
        "a figure has too many names; further ones are counted together"
    ]


def test_log_that_was_made_anew_is_counted_from_its_beginning() -> None:
    aggregate = Aggregate()
    for offset in range(90, 100):
        aggregate.fold(offset, offset, {"a|": 1})
    aggregate = Aggregate.from_bytes(aggregate.to_bytes())
    aggregate.set_back(0)
    assert aggregate.position == 0
    assert [aggregate.fold(offset, 100 + offset, {"a|": 1}) for offset in (0, 1, 1)] == [
        True,
        True,
        False,
    ]
    assert aggregate.totals == {"a|": 12}
    assert Aggregate.from_bytes(aggregate.to_bytes()).log == 1


def test_log_that_was_truncated_is_counted_on_from_where_it_was_cut() -> None:
    aggregate = Aggregate()
    for offset in range(10):
        aggregate.fold(offset, offset, {"a|": 1})
    aggregate.set_back(0)
    for offset in range(7):  # all that is left of it
        assert not aggregate.fold(offset, offset, {"a|": 1})
    assert aggregate.fold(7, 10, {"a|": 1})
    assert aggregate.totals == {"a|": 11}


def test_user_of_an_earlier_log_is_counted_on_in_the_next_one() -> None:
    user = Aggregate()
    user.fold(90, 0, {"a|": 1})
    user.follow(0)
    assert user.offset == 90
    user.follow(1)
    assert user.fold(2, 1, {"a|": 1})
    user.follow(1)
    assert not user.fold(2, 1, {"a|": 1})
    assert user.totals == {"a|": 2}


def test_aggregate_that_an_earlier_version_wrote_is_read() -> None:
    aggregate = Aggregate.from_bytes(b'{"offset":3,"totals":{},"minutes":{},"redo_from":null}')
    assert (aggregate.position, aggregate.log) == (4, 0)


def test_a_checkpoint_that_was_written_anew_is_counted_once() -> None:
    saved = making.checkpoint()
    copy = saved.model_copy(update={"renewed_ms": 1})
    assert counts_of(saved, at_ms=0, last_stage="chain") == {"checkpoints|": 1}
    assert counts_of(copy, at_ms=0, last_stage="chain") == {}
