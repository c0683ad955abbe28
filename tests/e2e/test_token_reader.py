"""A product that shows an answer while its worker is killed, and is itself started again."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import STEPS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.bus.token_reader import (
    Ended,
    Position,
    StartedAnew,
    Stepped,
    Text,
    TokenReader,
)
from millstream.streams.settings import Settings
from tests.harness.lanes import read_whole, upstream
from tests.harness.step_runs import kinds, require_sound
from tests.harness.worker_process import worker_process
from tests.services.users import acting_as

pytestmark = [pytest.mark.promise("P3"), pytest.mark.slow]

TOKENS_WRITTEN = 40
TOKENS_READ = 5
CALLS_AND_WRITES = f'call: calculator {{"expression": "1+1"}}; pace: 0.1; tokens: {TOKENS_WRITTEN}'


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
        bus = await stack.enter_async_context(KafkaBus(acting_as(settings, "client")))
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


@pytest.mark.timeout(180)
async def test_steps_of_a_killed_worker_are_void_and_the_next_attempt_says_why_it_begins(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    call = ["model_start", "model_end", "tool_start", "tool_end", "model_start"]
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            worker_process(settings, roles="lanes", name="first")
        )
        await first.ready()
        program = await stack.enter_async_context(upstream(settings))
        asked = {
            "user_id": "ada",
            "request_id": "long",
            "template": "react_agent",
            "input": CALLS_AND_WRITES,
        }
        await program.publish(asked, key=b"ada")
        bus = await stack.enter_async_context(KafkaBus(acting_as(settings, "client")))
        void: list[AgentStep] = []
        shown = kept = ""
        async with TokenReader(bus, "ada", "long", steps=True) as reader:
            while len(void) < len(call) or not shown:
                piece = await anext(reader)
                assert isinstance(piece, Text | Stepped)
                if isinstance(piece, Stepped):
                    void.append(piece.step)
                else:
                    shown += piece.text
                kept = str(piece.position)
        assert kinds(void) == call
        await first.kill()
        second = await stack.enter_async_context(
            worker_process(settings, roles="lanes", name="second")
        )
        await second.ready()
        begun_anew = 0
        steps = void
        resume = Position.parse(kept)
        async with TokenReader(bus, "ada", "long", resume=resume, steps=True) as reader:
            async for piece in reader:
                match piece:
                    case Text(text=text):
                        shown += text
                    case Stepped(step=step):
                        steps.append(step)
                    case StartedAnew():
                        shown, steps, begun_anew = "", [], begun_anew + 1
                    case Ended(result=result):
                        assert (result.status, result.output) == ("completed", shown)
        assert begun_anew == 1
        assert kinds(steps) == ["restart", *call, "model_end"]
        assert result.steps == len(steps)
        assert {step.attempt for step in steps} == {result.attempt}
        written = await read_whole(settings, STEPS, AgentStep)
        require_sound(written)
        assert written == void + steps
