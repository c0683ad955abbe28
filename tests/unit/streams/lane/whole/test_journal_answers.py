"""Answers of models that a run's next owner finds: whoever gave them, and to whatever was asked.

Public reports: inngest/agent-kit#290 and #325 (ids that collide), langchain-ai/langgraph#6792 (what
hangs on where a call is nested).
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import hook_config
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from typing_extensions import override

from millstream.agents.templates.memory import Summary
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import STEPS, TOKENS
from tests.fakes.odd_models import Chooser, OddModel
from tests.harness.journalled import Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import MemoryLanes, read_whole

pytestmark = pytest.mark.promise("P2")

DONE = AIMessage("done")
AT_ONCE = RetryPolicy(backoff_first_s=0, jitter=0)


def calls(name: str, n: int, text: str = "", **told: Any) -> AIMessage:
    call = {"name": name, "args": {"n": n}, "id": told.pop("call_id", f"c{n}"), "type": "tool_call"}
    return AIMessage(text, tool_calls=[call], **told)


async def told(
    world: MemoryLanes,
    outside: Outside,
    template: AgentTemplate,
    holds: list[Hold | None],
    text: str = "x",
    **more: Any,
) -> AgentResult:
    """Give the result of a run whose models say what they are told to."""
    models = more.pop("models")
    resolve = lambda name, **_: models[name]  # noqa: E731
    return await run_through(world, outside, text, holds, [template], resolve=resolve, **more)


def own(**fields: Any) -> AgentTemplate:
    return clerk(**{"models": ("main",), "retry": AT_ONCE, **fields})


async def test_an_attempt_behind_a_failed_one_that_is_lost_repeats_neither(
    world: MemoryLanes,
) -> None:
    main, outside = OddModel(says=[calls("put", 1), ModelFailed("overloaded"), DONE]), Outside()
    result = await told(world, outside, own(), [Hold("asked", 2), None], models={"main": main})
    assert (result.status, result.output) == ("completed", "done")
    assert len(main.seen) == 3
    assert len(outside.begun) == 1


async def test_another_model_takes_over_what_the_first_one_was_answered_also_as_another_worker(
    world: MemoryLanes,
) -> None:
    one = OddModel(says=[calls("put", 1), ModelFailed("overloaded")])
    two, outside = OddModel(says=[DONE]), Outside()
    result = await told(
        world,
        outside,
        own(models=("one", "two")),
        [Hold("asked", 2), None],
        models={"one": one, "two": two},
    )
    assert (result.status, result.output) == ("completed", "done")
    assert len(outside.begun) == 1
    # The next owner does not know that the first model failed, and asks it again.
    assert (len(one.seen), len(two.seen)) == (3, 1)
    assert [message.text for message in two.seen[0][-1:]] == ["did put 1"]


HOLDS = [Hold("asked", 1), Hold("asked", 2), Hold("begun", 1), Hold("said", 1), Hold("ended", 1)]


@pytest.mark.parametrize("lost", HOLDS, ids=lambda one: f"{one.at} {one.number}")
@pytest.mark.parametrize(
    "ids", [{"id": "same"}, {"call_id": None}, {"id": "same", "call_id": "c"}], ids=str
)
async def test_ids_that_a_provider_gives_twice_or_not_at_all_keep_calls_apart(
    world: MemoryLanes, lost: Hold, ids: dict[str, Any]
) -> None:
    done = AIMessage("done", id=ids.get("id"))
    says = [calls("put", n, **ids) for n in (1, 1, 2)]
    main, outside = OddModel(says=[*says, done]), Outside()
    if lost.at in {"asked", "said"}:
        # What was said and is not written down is asked once more.
        main.says.insert(lost.number, says[lost.number])
        main.says[lost.number + (lost.at == "said")] = main.says[lost.number]
    if lost.at == "asked":
        del main.says[lost.number]
    result = await told(world, outside, own(), [lost, None], models={"main": main})
    assert (result.status, result.output) == ("completed", "done")
    made = [name for name, _ in outside.begun]
    again = lost.at in {"begun", "ended"}
    assert sorted(made) == sorted(["put 1", "put 1", "put 2", *(["put 1"] if again else [])])
    assert len({key for _, key in outside.begun}) == 3
    steps = await journal_of(world)
    assert len({one.call_id for one in steps if one.kind == "done"}) == 3
    assert len({one.follows for one in steps if one.kind == "answered"}) == 3


async def test_a_summary_that_was_written_is_not_written_again(world: MemoryLanes) -> None:
    memory = Summary(tokens_max=300, summary_tokens_max=60, model="writer")
    main, writer = OddModel(says=[AIMessage("a" * 90)]), OddModel(says=[AIMessage("they greeted")])
    models, outside = {"main": main, "writer": writer}, Outside()
    template = own(memory=memory)
    for number in range(4):
        text = f"q{number} " + "x" * 40
        named = {"request_id": f"r{number}", "models": models}
        await told(world, outside, template, [None], text, **named)
    assert writer.seen == []
    main.says = [*([DONE] * 4), calls("put", 1), DONE]
    # The writer's is the first call of this run, its own the second.
    lost: list[Hold | None] = [Hold("asked", 1), Hold("asked", 1), None]
    lost[1] = Hold("begun")
    result = await told(
        world, outside, template, lost, "q4 " + "x" * 40, request_id="r4", models=models
    )
    assert (result.status, result.output) == ("completed", "done")
    assert len(writer.seen) == 1
    assert [one.kind for one in await journal_of(world)] == ["beside", "answered", "intent", "done"]
    assert "they greeted" in [message.text for message in main.seen[-1]]


async def test_a_summary_of_one_model_counts_for_the_one_that_takes_over(
    world: MemoryLanes,
) -> None:
    template = own(memory=Summary(tokens_max=300, summary_tokens_max=60), models=("one", "two"))
    one, two = OddModel(says=[AIMessage("a" * 90)]), OddModel(says=[DONE])
    models, outside = {"one": one, "two": two}, Outside()
    for number in range(5):
        if number == 4:
            one.says = [*([DONE] * 4), AIMessage("they greeted"), ModelFailed("overloaded")]
        text = f"q{number} " + "x" * 40
        named = {"request_id": f"r{number}", "models": models}
        result = await told(world, outside, template, [None], text, **named)
    assert (result.status, result.output, result.model) == ("completed", "done", "two")
    assert (len(one.seen), len(two.seen)) == (6, 1)
    assert "they greeted" in [message.text for message in two.seen[0]]


@pytest.mark.parametrize("lost", [Hold("asked", 1), Hold("begun"), Hold("asked", 2)], ids=str)
async def test_a_choice_of_tools_that_was_made_is_not_made_again(
    world: MemoryLanes, lost: Hold
) -> None:
    main = OddModel(says=[calls("put", 1), DONE])
    chooser = Chooser(says=[AIMessage('{"tools": ["put"]}')])
    params = {"model": "chooser", "max_tools": 1}
    template = own(middlewares=[{"name": "tool_selector", "params": params}])
    models, outside = {"main": main, "chooser": chooser}, Outside()
    result = await told(world, outside, template, [lost, None], models=models)
    assert (result.status, result.output) == ("completed", "done")
    assert (len(chooser.seen), len(main.seen)) == (1, 2)


@pytest.mark.parametrize("lost", [Hold("asked", 1), Hold("asked", 2), Hold("begun")], ids=str)
async def test_what_a_tool_writes_to_the_runs_state_is_there_at_the_next_worker(
    world: MemoryLanes, lost: Hold
) -> None:
    todos = [{"content": "put it", "status": "in_progress"}]
    call = {"name": "write_todos", "args": {"todos": todos}, "id": "t", "type": "tool_call"}
    main, outside = (
        OddModel(says=[AIMessage("", tool_calls=[call]), calls("put", 1), DONE]),
        Outside(),
    )
    states: list[Any] = []

    class Sees(AgentMiddleware[Any, Any, Any]):
        """Keeps what it sees of the run's state."""

        @override
        def before_model(self, state: Any, runtime: Any) -> None:
            states.append(state.get("todos"))

    template = own(middlewares=[{"name": "todo_list"}, {"name": "sees"}])
    more: dict[str, Any] = {"models": {"main": main}, "middlewares": {"sees": Sees}}
    result = await told(world, outside, template, [lost, None], **more)
    assert (result.status, result.output) == ("completed", "done")
    assert states[-3:] == [None, todos, todos]
    assert len(main.seen) == 3
    assert len({key for _, key in outside.begun}) == 1


class Nudges(AgentMiddleware[Any, Any, Any]):
    """Says something in a person's name behind each answer of a tool."""

    @override
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        if isinstance(state["messages"][-1], ToolMessage):
            return {"messages": [HumanMessage("go on")]}
        return None


class Refuses(AgentMiddleware[Any, Any, Any]):
    """Takes the answer "no" out of the conversation, and has the model asked again."""

    @hook_config(can_jump_to=["model"])
    @override
    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        if (said := state["messages"][-1]).text != "no":
            return None
        return {"messages": [RemoveMessage(id=said.id)], "jump_to": "model"}


@pytest.mark.parametrize("lost", [Hold("asked", 1), Hold("asked", 2), Hold("begun", 1)], ids=str)
async def test_what_a_middleware_says_in_a_persons_name_begins_no_other_turn(
    world: MemoryLanes, lost: Hold
) -> None:
    main, outside = OddModel(says=[calls("put", 1), calls("put", 2), DONE]), Outside()
    template = own(middlewares=[{"name": "nudges"}])
    more: dict[str, Any] = {"models": {"main": main}, "middlewares": {"nudges": Nudges}}
    result = await told(world, outside, template, [lost, None], **more)
    assert (result.status, result.output) == ("completed", "done")
    assert len(main.seen) == 3
    assert len({key for _, key in outside.begun}) == 2
    assert len(outside.begun) == 2 + (lost.at == "begun")
    questions = [one.asked for one in await journal_of(world) if one.kind == "answered"]
    assert len(set(questions)) == 2


@pytest.mark.parametrize("lost", [Hold("asked", 1), Hold("asked", 2), Hold("begun")], ids=str)
async def test_a_model_that_is_asked_the_same_again_is_asked_so_often_and_not_more(
    world: MemoryLanes, lost: Hold
) -> None:
    main, outside = (
        OddModel(says=[AIMessage("no"), AIMessage("no"), calls("put", 1), DONE]),
        Outside(),
    )
    template = own(middlewares=[{"name": "refuses"}])
    more: dict[str, Any] = {"models": {"main": main}, "middlewares": {"refuses": Refuses}}
    result = await told(world, outside, template, [lost, None], **more)
    assert result.status == "completed"
    assert (result.output or "").endswith("done")
    assert len(main.seen) == 4
    assert [one.kind for one in await journal_of(world)] == [
        "answered",
        "answered",
        "answered",
        "intent",
        "done",
    ]


SCHEMA = {
    "title": "Sum",
    "description": "A sum",
    "type": "object",
    "properties": {"n": {"type": "number"}},
    "required": ["n"],
}


@pytest.mark.parametrize("lost", [Hold("asked", 2), Hold("said", 2)], ids=str)
async def test_an_answer_that_is_to_be_given_anew_is_asked_for_anew_by_the_next_worker(
    world: MemoryLanes, lost: Hold
) -> None:
    main = OddModel(says=[calls("put", 1), AIMessage("three"), AIMessage('{"n": 3}')])
    outside = Outside()
    template = own(kind="structured", response_format=SCHEMA, repairs_max=1)
    result = await told(world, outside, template, [lost, None], models={"main": main})
    assert (result.status, result.structured) == ("completed", {"n": 3})
    assert len(outside.begun) == 1
    # What was said and is not written down, was the last that the run needed.
    assert len(main.seen) == 3 + (lost.at == "said")
    assert "three" in [message.text for message in main.seen[-1]]
    kinds = [one.kind for one in await journal_of(world)]
    assert kinds == ["answered", "intent", "done", "repair"]


async def test_a_run_goes_on_with_no_more_repairs_than_its_template_allows_however_often_it_is_lost(
    world: MemoryLanes,
) -> None:
    main, outside = OddModel(says=[calls("put", 1), AIMessage("three")]), Outside()
    template = own(kind="structured", response_format=SCHEMA, repairs_max=1)
    holds = [Hold("asked", 2), Hold("said"), None]
    result = await told(world, outside, template, holds, models={"main": main})
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "answer_invalid")
    assert [one.kind for one in await journal_of(world)].count("repair") == 1


async def test_calls_that_no_tool_takes_are_told_as_before_though_the_tools_are_others_now(
    world: MemoryLanes,
) -> None:
    wrong = AIMessage(
        "",
        tool_calls=[
            {"name": "nope", "args": {}, "id": "c1", "type": "tool_call"},
            {"name": "put", "args": {"n": 1, "m": 2}, "id": "c2", "type": "tool_call"},
        ],
    )
    main, outside = OddModel(says=[wrong, calls("look", 3), DONE]), Outside()
    # A reloaded app, in which one of the tools is gone and another one takes other arguments.
    fewer = own(tools=("look", "put"))
    holds = [Hold("asked", 1), Hold("asked", 1), None]
    more: dict[str, Any] = {"models": {"main": main}, "later": [fewer]}
    result = await told(world, outside, own(), holds, **more)
    assert (result.status, result.output) == ("completed", "done")
    assert [name for name, _ in outside.begun] == ["look 3"]
    one, two = main.results(1)
    assert "mail" in one.text
    assert [message.text for message in main.results(2)[:2]] == [one.text, two.text]
    steps = [one for one in await read_whole(world, STEPS, AgentStep) if one.recorded]
    errors = [one.reason.code for one in steps if one.reason is not None]
    assert errors == ["tool_call_not_made"] * 4


async def test_a_run_that_goes_on_tells_at_once_what_was_said_and_done(world: MemoryLanes) -> None:
    says = [calls("look", n, f"step {n}. ") for n in range(3)]
    main, outside = OddModel(says=[*says, DONE]), Outside()
    result = await told(world, outside, own(), [Hold("asked", 3), None], models={"main": main})
    tokens = await read_whole(world, TOKENS, AgentToken)
    newest = [one for one in tokens if one.attempt == result.attempt]
    assert [one.seq for one in newest] == [*range(result.last_seq + 1)]
    assert "".join(one.text for one in newest) == result.output
    assert result.output == "step 0. \n\nstep 1. \n\nstep 2. \n\ndone"
    steps = [
        one for one in await read_whole(world, STEPS, AgentStep) if one.attempt == result.attempt
    ]
    recorded = [one.kind for one in steps if one.recorded]
    assert recorded == ["model_start", "model_end", "tool_start", "tool_end"] * 3
    assert [one.kind for one in steps if not one.recorded] == [
        "restart",
        "model_start",
        "model_end",
    ]
