"""Journals that do not fit, cannot be read, or are too large: each ends its run, and says why.

Public reports: pydantic/pydantic-ai#7164 and aws/aws-durable-execution-sdk-python#342 (too large is
tried again for ever), aws/aws-durable-execution-sdk-python#692 (a record of another call is taken),
apache/flink-agents#422 (what does not fit is cleared, and made again).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool

from millstream.agents.tools import ToolRegistry, ToolRules
from millstream.schemas.events import AgentResult, CostRecorded
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.topics import COSTS, JOURNAL
from tests.fakes.odd_models import OddModel
from tests.harness.journalled import CLERK, Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import (
    MemoryLanes,
    lane_services,
    one_lane,
    read_whole,
    upstream,
    write_event,
)

pytestmark = pytest.mark.promise("P2")

TEXT = 'call: put {"n": 1}; call: look {"n": 2}; say: done'


def step(number: int, kind: str = "done", **told: Any) -> JournalStep:
    given = {"content": {}, "call_id": "c9", **told}
    return JournalStep(
        tenant="default",
        user_id="ada",
        at_ms=1_790_000_000_000,
        request_id="r1",
        session_id="s",
        attempt=1000,
        step=number,
        kind=kind,
        **given,
    )


async def resumed(
    world: MemoryLanes, *strays: JournalStep, holds: tuple[Hold | None, ...] = (None,)
) -> tuple[AgentResult, Outside]:
    """Give the result of a run whose journal has these records behind its first three steps."""
    outside, left = Outside(), [*strays]

    async def write() -> None:
        async with upstream(world) as program:
            for one in left:
                await write_event(world, program, JOURNAL, one)
        left.clear()

    result = await run_through(world, outside, TEXT, (Hold("asked", 1), *holds), between=write)
    return result, outside


BROKEN = {
    "of an unknown kind": (
        [step(3, "guessed")],
        "journal_unreadable",
        "step 3 .*'guessed'.* ask anew once no older worker",
    ),
    "not to be read": ([step(3)], "journal_unreadable", "the answer of a tool cannot be read"),
    "missing in the middle": ([step(4)], "in_doubt", "of 5 steps .* from 3 on cannot be read"),
    "out of order": ([step(4), step(3)], "in_doubt", "from 3 on"),
    "without a part": ([step(3, text="{", parts=2, content=None)], "in_doubt", "from 3 on"),
    "in parts in another order": (
        [step(3, text="{}", part=part, parts=2, content=None) for part in (1, 0)],
        "in_doubt",
        "from 3 on",
    ),
    "in parts that are no JSON": (
        [step(3, text="{", part=part, parts=2, content=None) for part in (0, 1)],
        "journal_unreadable",
        "step 3",
    ),
}


@pytest.mark.parametrize(("strays", "code", "words"), BROKEN.values(), ids=BROKEN)
async def test_a_journal_with_a_step_that_is_wrong_ends_its_run_which_makes_no_call(
    world: MemoryLanes, strays: list[JournalStep], code: str, words: str
) -> None:
    result, outside = await resumed(world, *strays)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", code)
    assert re.search(words, result.reason.message), result.reason.message
    assert len(outside.models) == 1
    assert [name for name, _ in outside.begun] == ["put 1"]
    # What was done is paid for all the same, and once.
    costs = await read_whole(world, COSTS, CostRecorded)
    assert len({one.event_id for one in costs}) == len(costs)


async def test_a_step_that_stands_on_the_journal_twice_counts_once_the_first_time(
    world: MemoryLanes,
) -> None:
    again = [step(1, "guessed"), step(2, "guessed"), step(2, "guessed")]
    result, outside = await resumed(world, *again, holds=(Hold("begun"), None))
    assert (result.status, result.output) == ("completed", "done")
    assert [name for name, _ in outside.begun] == ["put 1", "look 2", "look 2"]


CHANGED = {
    "prompt": {"system_prompt": "Answer in rhymes."},
    "schema": {
        "kind": "structured",
        "response_format": {
            "title": "Sum",
            "description": "A sum",
            "type": "object",
            "properties": {},
        },
    },
}


async def test_a_mismatch_names_a_call_that_may_have_been_made(world: MemoryLanes) -> None:
    outside = Outside()
    result = await run_through(
        world,
        outside,
        'call: put {"n": 7}; say: put',
        (Hold("happened"), None),
        [clerk(system_prompt="Answer briefly.")],
        later=[clerk(system_prompt="Answer at length.")],
    )
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "journal_mismatch")
    told = result.reason.message
    assert "; find out what became of put (" in told
    assert told.endswith('with {"n": 7}')
    assert outside.happened == outside.begun


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
async def test_a_template_that_was_changed_under_its_version_ends_the_run_at_the_step_that_differs(
    world: MemoryLanes, changed: dict[str, Any]
) -> None:
    outside = Outside()
    result = await run_through(
        world,
        outside,
        TEXT,
        (Hold("asked", 1), None),
        [clerk(system_prompt="Answer briefly.")],
        later=[clerk(**{"system_prompt": "Answer briefly.", **changed})],
    )
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "journal_mismatch")
    assert "the run's model call 1 was given to something else" in result.reason.message
    assert len(outside.models) == 1
    assert len(outside.begun) == 1
    # What was recorded stays.
    assert [one.kind for one in await journal_of(world)] == ["answered", "intent", "done"]


async def test_what_changes_nothing_that_a_model_is_asked_lets_a_run_go_on(
    world: MemoryLanes,
) -> None:
    outside = Outside()
    later = clerk(tools=("put", "look"), output_tokens_max=300, tool_timeout_s=9)
    holds = (Hold("asked", 1), None)
    result = await run_through(world, outside, TEXT, holds, later=[later])
    assert (result.status, result.output) == ("completed", "done")
    assert [name for name, _ in outside.begun] == ["put 1", "look 2"]


async def test_a_step_of_a_run_that_is_finished_opens_nothing(world: MemoryLanes) -> None:
    outside = Outside()
    await run_through(world, outside, TEXT)
    async with upstream(world) as program:
        await write_event(world, program, JOURNAL, step(9))
    async with (
        lane_services(world, outside, [CLERK], tools=outside.tools()) as services,
        one_lane(world, services, None) as owner,
    ):
        assert owner.lane._state.journals.open == {}


def big(outside: Outside, chars: int) -> ToolRegistry:
    """Give a tool whose answer has something long beside what the model is shown."""

    def fetch() -> tuple[str, Any]:
        """Fetch."""
        return "fetched", {"page": "é" * chars, "bytes": b"\x00\xff", "number": 2**70}

    made = StructuredTool.from_function(fetch, response_format="content_and_artifact")
    registry = outside.tools()
    registry.register(made, ToolRules(effect="idempotent"))
    return registry


FETCH = 'call: fetch {}; call: look {"n": 1}; say: {tool_result}'
FETCHER = clerk(tools=("fetch", "look"))


async def test_an_answer_of_many_records_is_read_back_whole(world: MemoryLanes) -> None:
    outside = Outside()
    holds = (Hold("asked", 1), Hold("begun"), None)
    result = await run_through(world, outside, FETCH, holds, [FETCHER], tools=big(outside, 900_000))
    assert result.status == "completed"
    steps = await journal_of(world)
    assert max(one.parts for one in steps) == 5
    assert [one.step for one in steps if one.part == 0] == list(range(5))


async def test_an_answer_that_no_records_hold_fails_the_run_at_once_and_names_its_tool(
    world: MemoryLanes,
) -> None:
    outside = Outside()
    result = await run_through(
        world, outside, FETCH, [None], [FETCHER], tools=big(outside, 3_300_000)
    )
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "step_too_large")
    assert "the tool 'fetch' is too long to be kept: 3,300," in result.reason.message
    assert result.attempt == 1000
    assert [one.kind for one in await journal_of(world)] == ["answered", "intent"]


async def test_arguments_beyond_64_bits_and_long_ones_are_read_back_as_they_were(
    world: MemoryLanes,
) -> None:
    call = {"name": "put", "args": {"n": 2**70}, "id": "c1", "type": "tool_call"}
    says = [AIMessage("x" * 210_000, tool_calls=[call]), AIMessage("done")]
    main, outside = OddModel(says=says), Outside()
    result = await run_through(
        world, outside, "x", (Hold("asked", 1), None), resolve=lambda *_, **__: main
    )
    assert result.status == "completed"
    assert [name for name, _ in outside.begun] == [f"put {2**70}"]
    (said, _) = main.seen[-1][-2:]
    assert isinstance(said, AIMessage)
    assert said.tool_calls[0]["args"] == {"n": 2**70}
