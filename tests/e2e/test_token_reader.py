"""A product that shows an answer while its worker is killed, and is itself started again."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from millstream.schemas.topics import catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.bus.token_reader import Ended, Position, StartedAnew, Text, TokenReader
from millstream.streams.settings import Settings
from tests.harness.lanes import upstream
from tests.harness.worker_process import worker_process

pytestmark = [pytest.mark.promise("P3"), pytest.mark.slow]

TOKENS_WRITTEN = 40
TOKENS_READ = 5


@pytest.mark.timeout(180)
async def test_a_text_is_read_across_a_killed_worker_and_a_new_reader(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            worker_process(settings, roles="lanes", name="first")
        )
        await first.ready()
        program = await stack.enter_async_context(upstream(settings))
        asked = {
            "user_id": "ada",
            "request_id": "long",
            "input": f"pace: 0.05; tokens: {TOKENS_WRITTEN}",
        }
        await program.publish(asked, key=b"ada")
        bus = await stack.enter_async_context(KafkaBus(settings))
        shown, kept = "", ""
        async with TokenReader(bus, "ada", "long") as reader:
            for _ in range(TOKENS_READ):
                piece = await anext(reader)
                assert isinstance(piece, Text)
                shown, kept = shown + piece.text, str(piece.position)
        await first.kill()
        second = await stack.enter_async_context(
            worker_process(settings, roles="lanes", name="second")
        )
        await second.ready()
        begun_anew = 0
        async with TokenReader(bus, "ada", "long", resume=Position.parse(kept)) as reader:
            async for piece in reader:
                match piece:
                    case Text(text=text):
                        shown += text
                    case StartedAnew():
                        shown, begun_anew = "", begun_anew + 1
                    case Ended(result=result):
                        assert (result.status, result.output) == ("completed", shown)
        assert begun_anew == 1
        assert shown
