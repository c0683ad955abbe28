"""A worker with tools of its own, on real Kafka: what they do to themselves ends no worker."""

from __future__ import annotations

import signal

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.chaos.provider.bill import NOTES
from tests.harness.lanes import ask, read_topic, upstream
from tests.harness.worker_process import worker_process

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

OTHERS = ("exits", "interrupts", "cancels", "raises", "groups", "huge")


@pytest.mark.promise("P1")
async def test_a_worker_outlives_tools_that_it_was_given_by_a_factory(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    program = ("tests.chaos.provider.worker",)
    async with (
        worker_process(settings, roles="lanes", program=program) as worker,
        upstream(settings) as upstreams,
    ):
        await worker.ready()
        for name in (*OTHERS, "note"):
            cues = f'call: {name} {{"order": "{name}"}}; say: told'
            await ask(upstreams, cues, request_id=name, template="odd_agent")
        results = await read_topic(settings, RESULTS, AgentResult, count=len(OTHERS) + 1)
        assert not worker.ended_already
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    ended = {result.request_id: (result.status, result.output) for result in results}
    assert ended == {
        **dict.fromkeys(("exits", "interrupts", "cancels"), ("failed", None)),
        **dict.fromkeys(("raises", "groups", "huge", "note"), ("completed", "told")),
    }
    assert (settings.data_dir / "worker" / NOTES).read_text() == "note\n"
