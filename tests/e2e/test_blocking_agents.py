"""A worker whose agents do not let others run: its lanes go on, and so do the neighbours."""

from __future__ import annotations

import asyncio
import signal

import pytest

from millstream.schemas.events import AgentResult, AttemptStarted
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import ATTEMPTS, LANES, RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.harness.lanes import read_topic, read_whole, upstream
from tests.harness.worker_process import worker_process

pytestmark = [pytest.mark.promise("P1"), pytest.mark.slow, pytest.mark.timeout(240)]

PRICED = "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"

ENDLESS_LETTERS = 40


# The worker's session is over after six seconds without a heartbeat; each attempt after fourteen.
@pytest.mark.parametrize(
    "blocks",
    ['call: sleep {"seconds": 60}', f'call: match {{"letters": {ENDLESS_LETTERS}}}'],
    ids=["sleep", "regular expression"],
)
async def test_code_that_blocks_ends_by_its_time_limit_and_no_neighbour_with_it(
    settings: Settings, blocks: str
) -> None:
    one = settings.model_copy(update={"partitions": 1})
    policy = settings.data_dir / "policy.yaml"
    policy.write_text(PRICED, encoding="utf-8")
    await ensure_topics(one, catalogue())
    async with (
        upstream(one) as program,
        worker_process(
            one,
            roles="lanes",
            program=("tests.harness.blocking_agents",),
            MILLSTREAM_PARTITIONS="1",
            MILLSTREAM_POLICY_FILE=str(policy),
        ) as worker,
    ):
        await worker.ready()
        for user, text in (
            ("ada", f"{blocks}; say: done"),
            *((f"user-{number}", "slow: 2; say: hello") for number in range(5)),
        ):
            value = {"user_id": user, "request_id": user, "input": text, "template": "blocks"}
            await program.publish(value, key=user.encode())
        # These come while it blocks.
        await read_topic(one, ATTEMPTS, AttemptStarted, count=6)
        await asyncio.wait_for(read_topic(one, RESULTS, AgentResult, count=5), 14)
        value = {"user_id": "late", "request_id": "late", "input": "say: hello"}
        await program.publish(value, key=b"late")
        results = {
            each.user_id: each for each in await read_topic(one, RESULTS, AgentResult, count=7)
        }
        guilty = results.pop("ada")
        assert {each.status for each in results.values()} == {"completed"}
        assert guilty.reason is not None
        assert (guilty.status, guilty.reason.code) == ("failed", "attempt_timed_out")
        assert "blocking_agents.py" in guilty.reason.message
        assert guilty.usage.input_tokens > 0
        # Nobody took the partition away, and no attempt is charged that was not made.
        assert len(await read_whole(one, LANES, LaneOpened)) == 1
        attempts = await read_whole(one, ATTEMPTS, AttemptStarted)
        assert sum(each.user_id == "ada" for each in attempts) == 1
        assert {each.usage.output_tokens for each in results.values()} == {1}
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
