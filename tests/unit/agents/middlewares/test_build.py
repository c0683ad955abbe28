"""LangChain's agent middlewares, named in a template: what they do, and what a run still keeps."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import StructuredTool
from pydantic import ValidationError

from millstream.agents.factory import AgentFactory
from millstream.agents.loop.agent import LoopAgent
from millstream.agents.loop.calls import Calls
from millstream.agents.sessions.checkpointer import RunCheckpointer
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry
from millstream.agents.tools.rules import ToolRules
from millstream.schemas.errors import LaneLost, Misconfigured, ModelFailed, Suspended
from tests.fakes.odd_models import Chooser, OddModel, calling
from tests.harness.agent_runs import Runs, resolved

DONE = AIMessage("done")


def search(query: str) -> str:
    """Search."""
    return f"{query}: write to bob@example.org"


def mail(to: str) -> str:
    """Mail."""
    return f"mailed {to}"


def registry() -> ToolRegistry:
    tools = ToolRegistry()
    for function in (search, mail):
        tools.register(StructuredTool.from_function(function), ToolRules(effect="read_only"))
    return tools


def runs_of(
    *middlewares: dict[str, Any],
    models: dict[str, BaseChatModel],
    own: dict[str, Any] | None = None,
    **template: Any,
) -> Runs:
    fields = {"kind": "react", "tools": ("search", "mail"), **template}
    made = AgentTemplate.model_validate({"name": "own", "middlewares": middlewares, **fields})
    factory = AgentFactory(
        default_model="main",
        templates=(*BUILT_IN_TEMPLATES[:1], made),
        tools=registry(),
        resolve=lambda name, **_: models[name],
        middlewares=own,
    )
    return Runs(factory)


def named(name: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "params": params}


def asked_for(query: str, number: int = 1) -> AIMessage:
    return calling(("search", {"query": query}, f"c{number}"))


async def test_personal_data_is_taken_out_of_what_a_model_reads() -> None:
    model = OddModel(says=[asked_for("ada"), DONE])
    pii = named("pii", pii_type="email", apply_to_tool_results=True)
    runs = runs_of(pii, models={"main": model})
    outcome = await runs.run("I am ada@example.org", template="own")
    assert outcome.result.output == "done"
    runs.assert_text_is_the_tokens(outcome)
    words = " ".join(message.text for message in model.seen[-1])
    assert "@" not in words
    assert words.count("[REDACTED_EMAIL]") == 2


async def test_the_session_keeps_what_the_model_read() -> None:
    runs = runs_of(named("pii", pii_type="email"), models={"main": OddModel(says=[DONE])})
    await runs.run("I am ada@example.org", template="own")
    kept = RunCheckpointer(runs.saved, runs.factory.list()[1]).messages
    assert [message.text for message in kept] == ["I am [REDACTED_EMAIL]", "done"]


async def test_a_run_that_personal_data_blocks_fails_and_does_not_say_it() -> None:
    model = OddModel(says=[DONE])
    runs = runs_of(named("pii", pii_type="email", strategy="block"), models={"main": model})
    outcome = await runs.run("I am ada@example.org", template="own")
    assert outcome.result.reason is not None
    assert (outcome.result.status, model.seen) == ("failed", [])
    assert "email" in outcome.result.reason.message
    assert "ada" not in outcome.result.reason.message
    assert not outcome.retryable


# langchain-ai/langchain#35011: a guard of the output runs once the tokens are shown
def test_a_guard_of_what_was_shown_already_is_refused() -> None:
    with pytest.raises(ValidationError, match="shown as it is written"):
        runs_of(named("pii", pii_type="email", apply_to_output=True), models={})


async def test_what_a_limit_says_in_the_models_place_is_written_to_the_tokens() -> None:
    model = OddModel(says=[asked_for("a"), asked_for("b", 2), DONE])
    runs = runs_of(
        named("tool_call_limit", run_limit=1, exit_behavior="end"), models={"main": model}
    )
    outcome = await runs.run("x", template="own")
    assert outcome.result.status == "completed"
    assert "limit" in (outcome.result.output or "")
    runs.assert_text_is_the_tokens(outcome)


# langchain-ai/langchainjs#11241: a run's limit, once reached, ended each later run of the session
async def test_a_runs_limit_counts_anew_in_the_next_run_of_the_session() -> None:
    model = OddModel(says=[asked_for("a"), DONE, asked_for("b", 2), DONE])
    runs = runs_of(named("model_call_limit", run_limit=1), models={"main": model})
    first = await runs.run("x", template="own")
    second = await runs.run("y", template="own", request_id="r2")
    assert len(model.seen) == 2
    assert (first.result.status, second.result.status) == ("completed", "completed")


async def test_a_limit_of_tool_calls_holds_and_the_model_goes_on() -> None:
    model = OddModel(says=[asked_for("a"), asked_for("b", 2), DONE])
    runs = runs_of(named("tool_call_limit", run_limit=1), models={"main": model})
    outcome = await runs.run("x", template="own")
    assert outcome.result.output == "done"
    assert ["limit" in one.text for one in model.results(2)] == [False, True]


async def test_a_limit_that_ends_a_run_says_so() -> None:
    model = OddModel(says=[asked_for("a"), asked_for("b", 2), DONE])
    limit = named("tool_call_limit", run_limit=1, exit_behavior="error")
    outcome = await runs_of(limit, models={"main": model}).run("x", template="own")
    assert outcome.result.reason is not None
    assert "ToolCallLimitExceededError" in outcome.result.reason.message


# langchain-ai/langchain#33881: hooks are steps of the graph, and used up its limit of steps
@pytest.mark.parametrize("calls", [1, 3, 8])
async def test_hooks_take_none_of_the_model_calls_that_a_template_permits(calls: int) -> None:
    says = [asked_for(str(number), number) for number in range(calls - 1)]
    hooks = [named("pii", pii_type=one) for one in ("email", "ip", "url")]
    hooks.append(named("tool_call_limit", run_limit=100))
    model = OddModel(says=[*says, DONE])
    runs = runs_of(*hooks, models={"main": model}, model_calls_max=calls)
    assert (await runs.run("x", template="own")).result.output == "done"
    endless = OddModel(says=[*says, *(asked_for(str(n), n) for n in range(50, 80))])
    runs = runs_of(*hooks, models={"main": endless}, model_calls_max=calls)
    outcome = await runs.run("x", template="own")
    assert outcome.result.reason is not None
    assert "did not end within" in outcome.result.reason.message
    assert len(endless.seen) == calls


async def test_a_model_whose_calls_are_all_blocked_is_called_no_more_often_than_permitted() -> None:
    endless = OddModel(says=[asked_for(str(n), n) for n in range(100)])
    limit = named("tool_call_limit", run_limit=1)
    runs = runs_of(limit, models={"main": endless}, model_calls_max=4)
    outcome = await runs.run("x", template="own")
    assert outcome.result.status == "failed"
    assert len(endless.seen) == 4


async def test_older_results_are_left_out_of_a_long_run() -> None:
    model = OddModel(says=[asked_for("a" * 400), asked_for("b", 2), DONE])
    runs = runs_of(named("context_editing", trigger=50, keep=1), models={"main": model})
    assert (await runs.run("x", template="own")).result.output == "done"
    assert model.results(2)[0].text == "[cleared]"


def selecting(says: list[Any], main: BaseChatModel, **template: Any) -> tuple[Runs, Chooser]:
    chooser = Chooser(says=says)
    selector = named("tool_selector", model="chooser", max_tools=1)
    return runs_of(selector, models={"main": main, "chooser": chooser}, **template), chooser


# langchain-ai/langchain#34501, langchainjs#10042: the selector's JSON was streamed as the answer
async def test_a_choice_of_tools_is_not_the_agents_voice_and_is_charged_by_itself() -> None:
    main = OddModel(says=[asked_for("a"), DONE])
    runs, chooser = selecting([AIMessage('{"tools": ["search"]}')], main)
    asked: list[int] = []

    async def before_call() -> None:
        asked.append(len(chooser.seen) + len(main.seen))

    outcome = await runs.run("x", template="own", before_call=before_call)
    assert outcome.result.output == "done"
    runs.assert_text_is_the_tokens(outcome)
    # The same question is answered from what is kept, also within a run.
    assert len(chooser.seen) == 1
    assert len(outcome.calls) == 3
    assert sum(one.model is not None for one in outcome.calls) == 1
    # Before each model call, the chooser's too, and before the tool's.
    assert len(asked) == 4


async def test_a_choice_of_tools_is_made_by_the_words_about_an_image() -> None:
    main = OddModel(says=[DONE], profile={"image_inputs": True})
    runs, chooser = selecting([AIMessage('{"tools": ["search"]}')], main)
    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    pii = named("pii", pii_type="email")
    runs = runs_of(
        named("tool_selector", model="chooser", max_tools=1),
        pii,
        models={"main": main, "chooser": chooser},
    )
    outcome = await runs.run("who is eve@example.org?", template="own", content=[image])
    assert outcome.result.output == "done"
    label = {"type": "text", "text": "[image/png, 8 B]"}
    assert chooser.seen[0][-1].content[1:] == [label]
    # langchain-ai/langchain#39894: what was redacted became the text of a list.
    assert main.seen[0][-1].content == [
        {"type": "text", "text": "who is [REDACTED_EMAIL]?"},
        image,
    ]


async def test_a_pause_before_a_middlewares_call_stops_the_run_there() -> None:
    main = OddModel(says=[DONE])
    runs, chooser = selecting([DONE], main)

    async def pause() -> None:
        raise Suspended

    outcome = await runs.run("x", template="own", before_call=pause)
    assert outcome.suspended
    assert (chooser.seen, main.seen) == ([], [])


async def test_a_lane_that_is_lost_before_a_middlewares_call_ends_the_run() -> None:
    runs, _ = selecting([DONE], OddModel(says=[DONE]))

    async def lost() -> None:
        raise LaneLost

    with pytest.raises(LaneLost):
        await runs.run("x", template="own", before_call=lost)


@pytest.mark.promise("P2")
async def test_a_retry_makes_no_call_again_that_was_answered_a_middlewares_too() -> None:
    main = OddModel(says=[asked_for("a"), ModelFailed("overloaded"), DONE])
    runs, chooser = selecting([AIMessage('{"tools": ["search"]}')], main)
    calls = Calls()
    first = await runs.run("x", template="own", calls=calls)
    assert first.retryable
    before = len(chooser.seen)
    second = await runs.run("x", template="own", calls=calls, attempt=1001, announce=True)
    assert second.result.output == "done"
    assert (len(main.seen), len(chooser.seen)) == (3, before)


async def test_a_list_of_what_is_to_do_is_kept_and_its_tool_has_no_effect() -> None:
    todos = [{"content": "look", "status": "pending"}]
    model = OddModel(says=[calling(("write_todos", {"todos": todos}, "t1")), DONE])
    runs = runs_of(named("todo_list"), models={"main": model})
    outcome = await runs.run("x", template="own")
    assert outcome.result.output == "done"
    assert not runs.factory.plan(resolved("x", template="own")).has_effects
    again = await runs.run("y", template="own", request_id="r2")
    assert again.result.status == "completed"


async def test_a_session_goes_on_under_a_template_without_the_middlewares() -> None:
    todos = [{"content": "look", "status": "pending"}]
    model = OddModel(says=[calling(("write_todos", {"todos": todos}, "t1")), DONE])
    limit = named("tool_call_limit", thread_limit=9)
    runs = runs_of(named("todo_list"), limit, models={"main": model})
    for number, template in enumerate(("own", "chat_agent", "own", "chat_agent")):
        outcome = await runs.run("x", template=template, request_id=f"r{number}")
        assert (outcome.result.status, outcome.result.output) == ("completed", "done")
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.turn == 4


class Polite(AgentMiddleware[Any, Any, Any]):
    """One of an app's own: says please."""

    def __init__(self, words: str = "please") -> None:
        super().__init__()
        self.words = words

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        last: BaseMessage = request.messages[-1]
        asked = last.model_copy(update={"content": f"{last.text}, {self.words}"})
        return await handler(request.override(messages=[*request.messages[:-1], asked]))


async def test_an_app_gives_middlewares_of_its_own_by_name() -> None:
    model = OddModel(says=[DONE])
    runs = runs_of(
        named("polite", words="quickly"),
        models={"main": model},
        own={"polite": Polite},
        kind="chat",
        tools=(),
    )
    outcome = await runs.run("go", template="own")
    assert outcome.result.output == "done"
    assert model.seen[0][-1].text == "go, quickly"


def test_a_tool_that_an_apps_middleware_brings_is_taken_to_have_effects() -> None:
    class Posts(Polite):
        tools = (StructuredTool.from_function(mail, name="post"),)

    runs = runs_of(named("posts"), models={}, own={"posts": Posts})
    plan = runs.factory.plan(resolved("x", template="own"))
    assert plan.has_effects
    bare = runs_of(named("posts"), models={}, own={"posts": Polite}).factory
    assert not bare.plan(resolved("x", template="own")).has_effects
    assert plan.input_tokens_max > bare.plan(resolved("x", template="own")).input_tokens_max


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, "'polite' is unknown; known: context_editing, model_call_limit, pii"),
        ({"polite": Polite}, "cannot be made with its parameters: TypeError"),
        ({"polite": lambda **_: "x"}, "its factory gives str"),
        ({"pii": Polite, "polite": Polite}, "'pii' is taken by LangChain's"),
        ({"tool_retry": Polite}, "'tool_retry' is taken by LangChain's"),
    ],
)
def test_a_mistake_in_an_apps_middleware_is_told_at_registration(
    own: dict[str, Any], words: str
) -> None:
    with pytest.raises(Misconfigured, match=words):
        runs_of(named("polite", wrods="x"), models={}, own=own, kind="chat", tools=())


@pytest.mark.parametrize(
    "name",
    ["human_in_the_loop", "model_retry", "tool_retry", "model_fallback", "summarization"],
)
def test_what_would_break_a_promise_is_refused_with_words(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be named in a template"):
        runs_of(named(name), models={})


@pytest.mark.parametrize("name", ["tool_selector", "todo_list", "context_editing"])
def test_what_is_for_tools_is_refused_without_any(name: str) -> None:
    with pytest.raises(ValidationError, match="is for the kind `react`"):
        runs_of(named(name), models={}, kind="chat", tools=())


def test_a_template_without_middlewares_is_one_call_and_one_with_them_a_loop() -> None:
    model = OddModel(says=[DONE])
    runs = runs_of(named("pii", pii_type="ip"), models={"main": model}, kind="chat", tools=())
    plain, own = (
        runs.factory.create(runs.factory.plan(resolved("x", template=name)))
        for name in ("chat_agent", "own")
    )
    assert not isinstance(plain, LoopAgent)
    assert isinstance(own, LoopAgent)


def test_what_a_middleware_reads_and_writes_is_reserved() -> None:
    bare = runs_of(models={}).factory.plan(resolved("x", template="own"))
    todo = runs_of(named("todo_list"), models={}).factory.plan(resolved("x", template="own"))
    runs, _ = selecting([DONE], OddModel(says=[DONE]))
    selected = runs.factory.plan(resolved("x", template="own"))
    assert todo.input_tokens_max > bare.input_tokens_max + 8 * 5_000
    assert selected.output_tokens_max == bare.output_tokens_max + 8 * 256
    assert (selected.calls_beside, selected.models_beside) == (8, ("chooser",))
    assert selected.input_tokens_max > bare.input_tokens_max
