"""A lane from end to end on real Kafka, with the scripted model."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from aiokafka import TopicPartition

from millstream.middleware.policy import Policy
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import (
    AgentResult,
    AgentToken,
    CheckpointSaved,
    CostRecorded,
    Decision,
)
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import (
    CHECKPOINTS,
    CONTROL,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    LANES,
    REQUESTS,
    RESULTS,
    TOKENS,
)
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.harness.lanes import Upstream, read_topic, read_whole, running_lanes, upstream


@pytest.mark.promise("P1")
@pytest.mark.promise("P3")
async def test_the_bare_minimum_gets_tokens_and_one_result(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        sent = await program.publish({"user_id": "ada", "input": "say: hello dear world"})
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    tokens = await read_topic(settings, TOKENS, AgentToken, count=1)
    assert result.status == "completed"
    assert result.output == "hello dear world"
    assert result.request_id == f"{sent.topic}-{sent.partition}-{sent.offset}"
    assert result.session_id == result.request_id
    text = "".join(token.text for token in tokens)
    assert text == result.output
    assert [token.seq for token in tokens] == list(range(len(tokens)))
    assert result.last_seq == len(tokens) - 1
    assert result.text_sha256 == hashlib.sha256(text.encode()).hexdigest()
    opened = await read_whole(settings, LANES, LaneOpened)
    assert [lane.generation for lane in opened] == [1] * settings.partitions


NEWER = {"user_id": "ada", "input": "x", "schema_version": 99}


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\xff\xfe no json", "not_json"),
        (b'["a", "list"]', "wrong_shape"),
        ({"user_id": "ada"}, "wrong_shape"),
        ({"user_id": "a\x00da", "input": "x"}, "wrong_shape"),
        (None, "null_value"),
        (NEWER, "newer_schema"),
    ],
    ids=["bytes", "list", "no-input", "control-character", "null", "newer"],
)
async def test_a_record_that_cannot_be_read_is_buried_and_the_next_one_served(
    settings: Settings, value: dict[str, object] | bytes | None, code: str
) -> None:
    hostile = b"\xc3\x28\x00/../{key}"
    async with running_lanes(settings), upstream(settings) as program:
        home = home_partition("ada", settings.partitions)
        sent = await program.publish(value, key=hostile, partition=home)
        await program.publish({"user_id": "ada", "input": "behind it"}, partition=home)
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
    assert result.output == "behind it"
    assert letter.reason.code == code
    assert letter.source.offset == sent.offset
    assert letter.key == base64.b64encode(hostile).decode()
    raw = json.dumps(value).encode() if isinstance(value, dict) else value
    assert letter.value == (None if raw is None else base64.b64encode(raw).decode())


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"user_id": "ada", "input": "x", "template": "no_such"}, "unknown_template"),
        ({"user_id": "ada", "input": "x" * 300_000}, "input_too_large"),
    ],
    ids=["template", "size"],
)
async def test_a_request_that_cannot_be_served_is_rejected_and_the_next_one_served(
    settings: Settings, request_: dict[str, object], code: str
) -> None:
    settings = settings.model_copy(update={"template_unknown_wait_s": 0.1})
    async with running_lanes(settings), upstream(settings) as program:
        home = home_partition("ada", settings.partitions)
        await program.publish(request_, partition=home)
        await program.publish({"user_id": "ada", "input": "behind it"}, partition=home)
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
    by_status = {result.status: result for result in results}
    assert by_status["completed"].output == "behind it"
    reason = by_status["rejected"].reason
    assert reason is not None
    assert reason.code == code


@pytest.mark.promise("P1")
@pytest.mark.promise("P2")
async def test_the_same_request_id_published_twice_has_one_result(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        for _ in range(2):
            await program.publish({"user_id": "ada", "request_id": "r1", "input": "once"})
        await program.publish({"user_id": "ada", "request_id": "r2", "input": "last"})
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
    assert sorted(result.request_id for result in results) == ["r1", "r2"]


async def timestamps(settings: Settings, where: TopicPartition) -> list[int]:
    """Give the broker's times of a partition's records."""
    reader = PartitionReader(settings)
    await reader.start()
    try:
        return [
            record.timestamp async for record in reader.read(await reader.high_watermarks([where]))
        ]
    finally:
        await reader.stop()


@pytest.mark.rule(12)
async def test_a_request_under_another_key_is_put_right(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        home = home_partition("ada", settings.partitions)
        away = (home + 1) % settings.partitions
        sent = await program.publish({"user_id": "ada", "input": "x"}, partition=away)
        (decision,) = await read_topic(settings, DECISIONS, Decision, count=1)
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert result.request_id == f"{sent.topic}-{away}-{sent.offset}"
    assert result.source.partition == away
    moved = await timestamps(settings, TopicPartition(settings.topic(REQUESTS.name), home))
    assert [result.accepted_at_ms] == [decision.at_ms] == moved


@pytest.mark.promise("P4")
async def test_runs_of_a_session_keep_their_order_and_their_memory(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        for number in range(5):
            await program.publish(
                {
                    "user_id": "ada",
                    "session_id": "s",
                    "request_id": f"r{number}",
                    # The first is the slowest: without a queue it would end last.
                    "input": f"slow: {0.5 if number == 0 else 0}; say: {number}",
                },
                # Order is kept for requests that arrive at one partition.
                key=b"ada",
            )
        results = await read_topic(settings, RESULTS, AgentResult, count=5)
        checkpoints = await read_topic(settings, CHECKPOINTS, CheckpointSaved, count=5)
    assert [result.output for result in results] == list("01234")
    assert [checkpoint.turn for checkpoint in checkpoints] == [1, 2, 3, 4, 5]
    ids = [checkpoint.checkpoint_id for checkpoint in checkpoints]
    assert [checkpoint.parent_id for checkpoint in checkpoints] == [None, *ids[:-1]]


@pytest.mark.rule(3)
@pytest.mark.rule(6)
@pytest.mark.promise("P1")
async def test_a_new_owner_goes_on_where_the_last_one_committed(settings: Settings) -> None:
    first = {"user_id": "ada", "session_id": "s", "request_id": "r1", "input": "one"}
    second = {"user_id": "ada", "session_id": "s", "request_id": "r2", "input": "two"}
    async with upstream(settings) as program:
        async with running_lanes(settings):
            await program.publish(first)
            await read_topic(settings, RESULTS, AgentResult, count=1)
        async with running_lanes(settings):
            await program.publish(first)
            await program.publish(second)
            results = await read_topic(settings, RESULTS, AgentResult, count=2)
    assert [result.request_id for result in results] == ["r1", "r2"]
    assert results[1].attempt > results[0].attempt
    opened = await read_topic(settings, LANES, LaneOpened, count=2 * settings.partitions)
    home = home_partition("ada", settings.partitions)
    assert [lane.generation for lane in opened if lane.partition == home] == [1, 2]
    checkpoints = await read_topic(settings, CHECKPOINTS, CheckpointSaved, count=2)
    assert checkpoints[1].turn == 2
    assert checkpoints[1].parent_id == checkpoints[0].checkpoint_id


@pytest.mark.slow
async def test_a_user_who_floods_a_partition_does_not_hold_back_the_others(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"runs_in_flight_max": 4})
    flooded = home_partition("ada", settings.partitions)
    other = next(
        user
        for user in ("bob", "eve", "dan", "joe", "kim")
        if home_partition(user, settings.partitions) != flooded
    )
    async with running_lanes(settings), upstream(settings) as program:
        for number in range(30):
            await program.publish(
                {
                    "user_id": "ada",
                    "session_id": "s",
                    "request_id": f"ada-{number:02}",
                    "input": "slow: 0.2; say: x",
                },
                key=b"ada",
            )
        await program.publish({"user_id": other, "input": "x"}, key=other.encode())
        results = await read_topic(settings, RESULTS, AgentResult, count=31)
    order = [result.user_id for result in results]
    assert order.index(other) < 15
    of_ada = [result.request_id for result in results if result.user_id == "ada"]
    assert of_ada == [f"ada-{number:02}" for number in range(30)]


POLICY = """
roles:
  user: {templates: ["*"]}
defaults: {roles: [user]}
users:
  mallory: {roles: []}
  bob: {rate: {requests: 2, window_s: 3600}}
prices:
  scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
"""


@pytest.mark.parametrize("cuts", [(), ("cost", "executor")], ids=["fused", "staged"])
async def test_the_chain_decides_alike_whole_and_cut_into_stages(
    settings: Settings, cuts: tuple[str, ...]
) -> None:
    settings = settings.model_copy(update={"chain_cuts": cuts})
    policy = Policy.from_yaml(POLICY, name="test")
    async with running_lanes(settings, policy), upstream(settings) as program:
        await program.publish({"user_id": "mallory", "request_id": "m1", "input": "x"})
        for number in range(3):
            await program.publish(
                {"user_id": "bob", "request_id": f"b{number}", "input": "tokens: 3"}, key=b"bob"
            )
        results = await read_topic(settings, RESULTS, AgentResult, count=4)
        costs = await read_topic(settings, COSTS, CostRecorded, count=2)
    told = {
        result.request_id: (result.status, result.reason.code if result.reason else None)
        for result in results
    }
    assert told == {
        "m1": ("rejected", "forbidden"),
        "b0": ("completed", None),
        "b1": ("completed", None),
        "b2": ("rejected", "rate_limited"),
    }
    assert {cost.request_id for cost in costs} == {"b0", "b1"}
    assert all(cost.cost_micros > 0 for cost in costs)


@pytest.mark.promise("P5")
async def test_a_rate_limit_survives_a_new_owner(settings: Settings) -> None:
    policy = Policy.from_yaml(POLICY, name="test")
    async with upstream(settings) as program:
        async with running_lanes(settings, policy):
            await program.publish({"user_id": "bob", "request_id": "b0", "input": "x"})
            await read_topic(settings, RESULTS, AgentResult, count=1)
        async with running_lanes(settings, policy):
            for number in (1, 2):
                await program.publish(
                    {"user_id": "bob", "request_id": f"b{number}", "input": "x"}, key=b"bob"
                )
            results = await read_topic(settings, RESULTS, AgentResult, count=3)
    assert {result.request_id: result.status for result in results} == {
        "b0": "completed",
        "b1": "completed",
        "b2": "rejected",
    }


async def publish_command(settings: Settings, program: Upstream, **command: str) -> None:
    await program.publish(
        {"user_id": "ada", "command": "cancel", **command}, topic=settings.topic(CONTROL.name)
    )


async def test_cancel_cuts_a_run_off_and_keeps_what_was_written(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        await program.publish(
            {"user_id": "ada", "request_id": "r1", "input": "pace: 0.05; endless"}
        )
        await read_topic(settings, TOKENS, AgentToken, count=3)
        await publish_command(settings, program, request_id="r1")
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    tokens = await read_whole(settings, TOKENS, AgentToken)
    assert (result.status, result.output) == ("cancelled", None)
    assert result.last_seq == len(tokens) - 1
    text = "".join(token.text for token in tokens)
    assert result.text_sha256 == hashlib.sha256(text.encode()).hexdigest()


async def test_cancelling_a_session_ends_all_that_runs_and_waits_in_it(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        for number in range(3):
            await program.publish(
                {"user_id": "ada", "session_id": "s", "request_id": f"r{number}", "input": "hang"},
                key=b"ada",
            )
        await read_topic(settings, DECISIONS, Decision, count=3)
        await publish_command(settings, program, session_id="s")
        results = await read_topic(settings, RESULTS, AgentResult, count=3)
        await program.publish({"user_id": "ada", "session_id": "s", "input": "after"})
        (*_, last) = await read_topic(settings, RESULTS, AgentResult, count=4)
    assert {result.status for result in results} == {"cancelled"}
    assert last.output == "after"


async def test_a_request_that_is_cancelled_before_it_comes_never_runs(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        await publish_command(settings, program, request_id="r1")
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        await program.publish({"user_id": "ada", "request_id": "r1", "input": "x"}, key=b"ada")
        await program.publish({"user_id": "ada", "request_id": "r2", "input": "x"}, key=b"ada")
        await read_topic(settings, RESULTS, AgentResult, count=2)
    results = await read_whole(settings, RESULTS, AgentResult)
    assert result.status == "cancelled"
    assert [(one.request_id, one.status) for one in results] == [
        ("r1", "cancelled"),
        ("r2", "completed"),
    ]


@pytest.mark.parametrize(
    "command", [{"command": "explode", "request_id": "r"}, {"command": "cancel"}]
)
async def test_a_command_that_makes_no_sense_is_buried_and_the_next_one_obeyed(
    settings: Settings, command: dict[str, str]
) -> None:
    topic = settings.topic(CONTROL.name)
    async with running_lanes(settings), upstream(settings) as program:
        await program.publish({"user_id": "ada", **command}, key=b"ada", topic=topic)
        await publish_command(settings, program, request_id="r1")
        (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert (letter.reason.code, letter.source.topic) == ("wrong_shape", topic)
    assert result.status == "cancelled"


async def test_a_run_that_fails_in_a_way_that_may_pass_is_tried_again_as_new_attempts(
    settings: Settings,
) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        home = home_partition("ada", settings.partitions)
        await program.publish(
            {"user_id": "ada", "request_id": "r1", "input": "breaks: 2; tokens: 9"},
            partition=home,
        )
        await program.publish({"user_id": "ada", "request_id": "r2", "input": "x"}, partition=home)
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
    tokens = await read_whole(settings, TOKENS, AgentToken)
    (other, failed) = results
    assert (other.request_id, other.status) == ("r2", "completed")  # the partition did not wait
    assert (failed.status, failed.attempt) == ("failed", 1002)
    assert failed.reason is not None
    assert failed.reason.code == "model_failed"
    by_attempt = {
        number: [one.text for one in tokens if one.attempt == number and one.request_id == "r1"]
        for number in (1000, 1001, 1002)
    }
    assert by_attempt[1000][0] != ""
    assert by_attempt[1001][0] == by_attempt[1002][0] == ""
    assert failed.last_seq == len(by_attempt[1002]) - 1


async def test_a_run_that_waits_for_its_next_attempt_can_be_cancelled(settings: Settings) -> None:
    async with running_lanes(settings), upstream(settings) as program:
        await program.publish({"user_id": "ada", "request_id": "r1", "input": "retry: not yet"})
        await read_topic(settings, DECISIONS, Decision, count=1)
        await publish_command(settings, program, request_id="r1")
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert result.status == "cancelled"
