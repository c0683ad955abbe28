"""A run whose middlewares are others at its next worker: it goes on, or ends and says where."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import hook_config
from langchain_core.messages import AIMessage, RemoveMessage, SystemMessage
from typing_extensions import override

from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.events import AgentResult
from tests.fakes.odd_models import Chooser, OddModel
from tests.harness.journalled import Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import MemoryLanes

pytestmark = pytest.mark.promise("P2")

CALL = {"name": "put", "args": {"n": 1}, "id": "c1", "type": "tool_call"}
PUT, DONE = AIMessage("", tool_calls=[CALL]), AIMessage("done")


class Says(AgentMiddleware[Any, Any, Any]):
    """Adds words to the conversation before each question."""

    @override
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"messages": [SystemMessage("Be brief.")]}


class Polite(AgentMiddleware[Any, Any, Any]):
    """Changes what is asked, and not the conversation."""

    @override
    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(system_message=SystemMessage("Be polite.")))


class Refuses(AgentMiddleware[Any, Any, Any]):
    """Takes the answer "no" out of the conversation, and has the model asked again."""

    @hook_config(can_jump_to=["model"])
    @override
    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        if (said := state["messages"][-1]).text != "no":
            return None
        return {"messages": [RemoveMessage(id=said.id)], "jump_to": "model"}


def named(*names: str) -> AgentTemplate:
    given: list[dict[str, Any]] = [{"name": one} for one in names]
    return clerk(models=("main",), middlewares=given)


async def through(
    world: MemoryLanes,
    main: OddModel,
    before: AgentTemplate,
    after: AgentTemplate,
    hold: Hold,
    **models: Any,
) -> tuple[AgentResult, Outside]:
    """Give the result of a run whose template is another one at its second worker."""
    outside, resolvable = Outside(), {"main": main, **models}
    result = await run_through(
        world,
        outside,
        "x",
        [hold, None],
        [before],
        later=[after],
        middlewares={"says": Says, "polite": Polite, "refuses": Refuses},
        resolve=lambda name, **_: resolvable[name],
    )
    return result, outside


def ended(result: AgentResult) -> tuple[str, str]:
    """Give code and words of what ended a run."""
    assert result.status == "failed"
    assert result.reason is not None
    return result.reason.code, result.reason.message


@pytest.mark.parametrize(
    ("before", "after"),
    [((), ("says",)), (("says",), ()), (("refuses",), ("says",))],
    ids=["added", "removed", "another"],
)
@pytest.mark.parametrize("hold", [Hold("asked", 1), Hold("begun"), Hold("ended")], ids=str)
async def test_a_middleware_that_changes_what_is_asked_ends_the_run_at_that_call(
    world: MemoryLanes, hold: Hold, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    main = OddModel(says=[PUT, DONE])
    result, outside = await through(world, main, named(*before), named(*after), hold)
    code, words = ended(result)
    assert code == "journal_mismatch"
    assert "the run's model call 1 was given to something else" in words
    assert "a middleware was changed under the same version" in words
    assert "give a change a version of its own" in words
    assert len(main.seen) == 1
    assert len(outside.begun) == 1


@pytest.mark.parametrize(
    ("before", "after"), [((), ("polite",)), (("polite",), ())], ids=["added", "removed"]
)
@pytest.mark.parametrize("hold", [Hold("asked", 1), Hold("begun"), Hold("ended")], ids=str)
async def test_a_middleware_that_leaves_the_conversation_as_it_is_lets_the_run_go_on(
    world: MemoryLanes, hold: Hold, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    main = OddModel(says=[PUT, DONE])
    result, outside = await through(world, main, named(*before), named(*after), hold)
    assert (result.status, result.output) == ("completed", "done")
    assert len(main.seen) == 2
    assert len({key for _, key in outside.begun}) == 1


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_choice_of_tools_that_is_gone_or_new_lets_the_run_go_on(
    world: MemoryLanes,
    is_new: bool,  # noqa: FBT001  a case
) -> None:
    selector = {"name": "tool_selector", "params": {"model": "chooser", "max_tools": 1}}
    chooses, plain = clerk(models=("main",), middlewares=[selector]), named()
    before, after = (plain, chooses) if is_new else (chooses, plain)
    main = OddModel(says=[PUT, DONE])
    chooser = Chooser(says=[AIMessage('{"tools": ["put"]}')])
    hold = Hold("begun") if is_new else Hold("asked", 2)
    result, outside = await through(world, main, before, after, hold, chooser=chooser)
    assert (result.status, result.output) == ("completed", "done")
    assert (len(main.seen), len(chooser.seen)) == (2, 1)
    assert len({key for _, key in outside.begun}) == 1


async def test_a_middleware_that_asked_again_and_is_gone_ends_the_run_where_it_came_further(
    world: MemoryLanes,
) -> None:
    main = OddModel(says=[AIMessage("no"), AIMessage("no"), DONE])
    result, _ = await through(world, main, named("refuses"), named(), Hold("asked", 2))
    code, words = ended(result)
    assert code == "journal_mismatch"
    assert "a middleware was changed under the same version" in words
    assert "find out what the run did before you ask anew" in words
    assert len(main.seen) == 2
    assert [one.kind for one in await journal_of(world)] == ["answered", "answered"]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_template_whose_agent_needs_no_loop_any_more_does_not_ask_its_model_anew(
    world: MemoryLanes, number: int
) -> None:
    again = AIMessage("", tool_calls=[{**CALL, "id": "c2"}])
    main = OddModel(says=[PUT, again, DONE])
    chat = clerk(models=("main",), kind="chat", tools=())
    result, outside = await through(world, main, named(), chat, Hold("asked", number))
    code, words = ended(result)
    assert code == "journal_mismatch"
    assert f"{number} model calls of the run are recorded" in words
    assert "give a change a version of its own" in words
    assert (len(main.seen), len(outside.begun)) == (number, number)


async def test_a_middleware_that_asks_again_and_is_new_asks_behind_what_is_recorded(
    world: MemoryLanes,
) -> None:
    main = OddModel(says=[PUT, AIMessage("no"), DONE])
    result, outside = await through(world, main, named(), named("refuses"), Hold("asked", 1))
    assert (result.status, result.output) == ("completed", "no\n\ndone")
    assert (len(main.seen), len(outside.begun)) == (3, 1)
