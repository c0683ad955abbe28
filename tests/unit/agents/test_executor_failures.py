"""What an attempt leaves that does not complete: its reason, the text that came, no checkpoint."""

from __future__ import annotations

import asyncio

import pytest

from millstream.schemas.errors import LaneLost
from millstream.schemas.events import AgentToken, CheckpointSaved
from tests.harness.agent_runs import NOW_MS, Runs, with_template

pytestmark = pytest.mark.promise("P3")


async def test_an_agent_that_calls_tools_without_end_is_stopped() -> None:
    runs = with_template(kind="react", tools=["calculator"], model_calls_max=3)
    calls = "; ".join(['call: calculator {"expression": "1"}'] * 5)
    outcome = await runs.run(calls, template="own")
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "model_calls_exhausted"
    assert "3 model calls" in outcome.result.reason.message
    assert outcome.checkpoint is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('call: Answer {"answer": 5, "keywords": []}', "$.answer"),
        ('call: Answer {"answer": "\\ud800", "keywords": []}', "written as JSON"),
        ("say: no idea", "not answer in JSON"),
    ],
)
async def test_an_answer_off_the_schema_fails_the_run(runs: Runs, script: str, words: str) -> None:
    outcome = await runs.run(script, template="structured_agent")
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert words in outcome.result.reason.message
    assert outcome.checkpoint is None


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("fail: no such luck", "failed", "no such luck"),
        ("retry: try later", "model_failed", "try later"),
        ("call: calculator nonsense", "failed", "cannot be read"),
    ],
)
async def test_a_failing_model_ends_the_run_with_its_reason(
    runs: Runs, script: str, code: str, words: str
) -> None:
    outcome = await runs.run(script)
    result = outcome.result
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", code)
    assert words in result.reason.message
    assert (result.output, result.last_seq, result.text_sha256) == (None, -1, None)
    assert outcome.checkpoint is None


async def test_a_model_that_breaks_off_leaves_all_the_text_that_came(runs: Runs) -> None:
    outcome = await runs.run("breaks: 3; tokens: 30")
    assert (outcome.result.status, outcome.result.output) == ("failed", "t0 t1 t2")
    runs.assert_text_is_the_tokens(outcome)


async def test_a_model_that_is_not_there_says_what_to_do(runs: Runs) -> None:
    outcome = await runs.run("hello", model="nosuch")
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "model_unavailable"
    assert "provider:model" in outcome.result.reason.message


async def test_an_unforeseen_error_is_a_failed_result_with_bounded_words(runs: Runs) -> None:
    async def broken() -> CheckpointSaved | None:
        raise ZeroDivisionError("\ud800 " + "x" * 5_000)

    outcome = await runs.run("hello", load=broken)
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "failed"
    assert outcome.result.reason.message.startswith("ZeroDivisionError: ? xxx")
    assert len(outcome.result.reason.message) == 500
    assert outcome.result.model_dump_json()


async def test_a_run_past_its_deadline_calls_no_model(runs: Runs) -> None:
    outcome = await runs.run("hello", deadline_ms=NOW_MS)
    assert outcome.result.status == "expired"
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "expired"
    assert outcome.result.usage.input_tokens == 0
    assert runs.tokens == []


async def test_a_deadline_during_the_run_expires_it(runs: Runs) -> None:
    outcome = await runs.run("hang", deadline_ms=NOW_MS + 50)
    assert outcome.result.status == "expired"


@pytest.mark.parametrize("script", ["hang", "endless", "slow: 600; say: late"])
async def test_an_attempt_that_takes_too_long_fails(script: str) -> None:
    runs = with_template(attempt_timeout_s=0.05)
    outcome = await runs.run(script, template="own", deadline_ms=NOW_MS + 60_000)
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "attempt_timed_out"
    assert outcome.retryable
    # It was the model that was waited for, so that another may fare better.
    assert outcome.model_failed
    runs.assert_text_is_the_tokens(outcome)


@pytest.mark.parametrize("deadline_ms", [None, NOW_MS + 50])
async def test_an_attempt_that_goes_past_its_requests_time_limit_ends_the_request(
    deadline_ms: int | None,
) -> None:
    runs = with_template(request_timeout_s=2, attempt_timeout_s=0.05)
    outcome = await runs.run(
        "hang", template="own", ends_by_ms=NOW_MS + 50, deadline_ms=deadline_ms
    )
    # Of limits that end together, one that no further attempt helps; the user's own before others.
    told = ("failed", "request_timed_out") if deadline_ms is None else ("expired", "expired")
    assert outcome.result.reason is not None
    assert (outcome.result.status, outcome.result.reason.code) == told
    assert not outcome.retryable


async def test_an_attempt_beyond_its_requests_time_limit_calls_no_model() -> None:
    runs = with_template(request_timeout_s=2)
    outcome = await runs.run("hello", template="own", ends_by_ms=NOW_MS)
    assert outcome.result.reason is not None
    assert outcome.result.reason.message == (
        "the request took longer than 2 s before its attempt began"
    )
    assert outcome.result.usage.input_tokens == 0
    assert runs.tokens == []


async def test_an_answer_without_end_is_stopped_before_no_record_can_hold_it(runs: Runs) -> None:
    outcome = await runs.run("endless")
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert "longer than" in outcome.result.reason.message
    runs.assert_text_is_the_tokens(outcome)


async def test_a_token_that_cannot_be_emitted_fails_the_attempt(runs: Runs) -> None:
    async def emit(token: AgentToken) -> None:
        if token.seq == 1:
            message = "the record is too large"
            raise ValueError(message)
        runs.tokens.append(token)

    outcome = await runs.run("pace: 0.01; tokens: 50", emit=emit)
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert outcome.result.reason.message == "ValueError: the record is too large"
    assert (outcome.result.output, outcome.result.last_seq) == ("t0", 0)
    runs.assert_text_is_the_tokens(outcome)


async def test_a_lost_lane_has_no_result(runs: Runs) -> None:
    async def emit(_: AgentToken) -> None:
        message = "fenced"
        raise LaneLost(message)

    async def load() -> CheckpointSaved | None:
        message = "fenced"
        raise LaneLost(message)

    with pytest.raises(LaneLost):
        await runs.run("hello there", emit=emit)
    with pytest.raises(LaneLost):
        await runs.run("hello there", load=load)


async def test_a_piece_on_its_way_at_a_time_out_is_part_of_the_output() -> None:
    runs = with_template(attempt_timeout_s=0.05)
    let_go = asyncio.Event()

    async def emit(token: AgentToken) -> None:
        await let_go.wait()
        runs.tokens.append(token)

    asyncio.get_running_loop().call_later(0.2, let_go.set)
    outcome = await runs.run("hello there", template="own", emit=emit)
    assert (outcome.result.status, outcome.result.output) == ("failed", "hello")
    runs.assert_text_is_the_tokens(outcome)


async def test_a_cancelled_run_stops_and_emits_no_more(runs: Runs) -> None:
    first = asyncio.Event()

    async def emit(token: AgentToken) -> None:
        runs.tokens.append(token)
        first.set()

    others = asyncio.all_tasks()
    task = asyncio.create_task(runs.run("pace: 600; say: a b", emit=emit))
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [token.text for token in runs.tokens] == ["a"]
    assert asyncio.all_tasks() == others


async def test_a_checkpoint_that_cannot_be_opened_fails_the_run(runs: Runs) -> None:
    await runs.run("hello")
    assert runs.saved is not None
    runs.saved = runs.saved.model_copy(update={"data": "AAAA"})
    outcome = await runs.run("hello")
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "checkpoint_unreadable"
