"""What of a run's journal fits another version of its template, told step by step."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware import ModelResponse
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool

from millstream.agents.loop.calls import NOT_MADE
from millstream.agents.loop.journal.fits import NewVersion, misfit
from millstream.agents.loop.journal.moves import schema_digest
from millstream.agents.sessions.recorded.answers import recorded_model, recorded_tool
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry, ToolRules, tool
from millstream.schemas.journal.steps import JournalStep, RunBegan

SCHEMA = {"type": "object", "properties": {"n": {"type": "number"}}}


def step(number: int, kind: str, **fields: Any) -> JournalStep:
    return JournalStep.model_validate(
        {
            "user_id": "ada",
            "request_id": "r",
            "session_id": "s",
            "attempt": 1000,
            "step": number,
            "kind": kind,
            **fields,
        }
    )


def began(*tools: str, **fields: Any) -> RunBegan:
    return RunBegan(template="own", template_version="1", tools=tools, **fields)


def answered(
    *calls: tuple[str, dict[str, Any]], faults: dict[str, str] | None = None, **more: Any
) -> JournalStep:
    said = AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": args, "id": f"c{number}"}
            for number, (name, args) in enumerate(calls)
        ],
    )
    content = recorded_model(ModelResponse([said]), faults or {}).content
    return step(0, "answered", follows="", content=content, **more)


def intent(name: str, effect: str) -> JournalStep:
    return step(1, "intent", call_id="c0", name=name, effect=effect)


def done(name: str, *, not_made: bool = False) -> JournalStep:
    content = recorded_tool(ToolMessage("ok", tool_call_id="c0", name=name)).content
    if not_made:
        content |= {NOT_MADE: True}
    return step(2, "done", call_id="c0", name=name, content=content)


def version(*tools: str, effect: Any = "idempotent", **fields: Any) -> NewVersion:
    @tool(effect=effect)
    def pay(eur: int) -> str:
        """Pay."""
        return f"paid {eur}"

    given = {"name": "own", "version": "2", **fields}
    if tools:
        given |= {"kind": "react", "tools": tools}
    return NewVersion(AgentTemplate.model_validate(given), tools, ToolRegistry([pay]))


PAID = answered(("pay", {"eur": 5}), began=began("pay"))


def test_a_journal_whose_calls_the_version_takes_fits() -> None:
    assert misfit([PAID, intent("pay", "idempotent"), done("pay")], version("pay")) is None
    assert misfit([PAID], version("pay")) is None
    assert misfit([], version("pay")) is None


@pytest.mark.parametrize(
    "steps",
    [
        (PAID,),
        (PAID, intent("pay", "idempotent")),
        (PAID, intent("pay", "idempotent"), done("pay")),
    ],
    ids=["asked for", "begun", "answered"],
)
def test_a_tool_that_was_called_and_is_not_in_the_version_does_not_fit(
    steps: tuple[JournalStep, ...],
) -> None:
    told = misfit(steps, version())
    assert told is not None
    assert told.startswith("it has called pay, which version '2' does not have")


def test_a_call_that_was_not_made_or_of_what_never_was_a_tool_counts_nothing() -> None:
    assert misfit([PAID, done("pay", not_made=True)], version()) is None
    assert misfit([answered(("pay", {"eur": 5}), faults={"c0": "cut"})], version()) is None
    assert misfit([answered(("made_up", {}), began=began("pay"))], version("pay")) is None


@pytest.mark.parametrize(
    ("was", "now", "fits"),
    [
        ("idempotent", "idempotent", True),
        ("ask_human", "idempotent", True),
        ("idempotent", "read_only", True),
        ("idempotent", "ask_human", False),
        ("of a newer version", "ask_human", True),
    ],
)
def test_an_effect_may_be_laxer_than_the_call_was_made_with_and_no_stricter(
    was: str, now: str, *, fits: bool
) -> None:
    told = misfit([PAID, intent("pay", was)], version("pay", effect=now))
    assert (told is None) is fits
    if told is not None:
        assert f"as {was!r}, and the tool is declared {now!r} now" in told


@pytest.mark.parametrize("args", [{"eur": "much"}, {}, {"usd": 5}, {"eur": 5, "usd": 5}])
def test_a_call_without_an_answer_has_to_be_what_its_tool_takes(args: dict[str, Any]) -> None:
    asked = answered(("pay", args), began=began("pay"))
    told = misfit([asked], version("pay"))
    assert told is not None
    assert told.startswith("its call of pay (c0) has no answer, and the tool takes other arguments")
    assert misfit([asked, intent("pay", "idempotent"), done("pay")], version("pay")) is None


def test_a_call_without_an_answer_of_a_tool_that_is_away_is_not_judged() -> None:
    registry = ToolRegistry()
    made = StructuredTool.from_function(lambda: "", name="pay", description="Pay.")
    registry.replace(made, ToolRules(), is_absent=True)
    new = version("pay")
    told = misfit([PAID], NewVersion(new.template, new.tools, registry))
    assert told is not None
    assert "the tool is not there now" in told


@pytest.mark.parametrize(
    ("was", "now", "fits"),
    [
        (schema_digest(SCHEMA), SCHEMA, True),
        (schema_digest(SCHEMA), {"type": "object"}, False),
        (schema_digest(None), SCHEMA, False),
        (None, SCHEMA, False),
        (None, None, True),
        (schema_digest(SCHEMA), None, False),
    ],
)
def test_what_an_answer_has_to_fit_is_the_same_once_there_is_one(
    was: str | None, now: dict[str, Any] | None, *, fits: bool
) -> None:
    fields = {} if now is None else {"kind": "structured", "response_format": now}
    given = {"name": "own", "version": "2", **fields}
    new = NewVersion(AgentTemplate.model_validate(given), (), ToolRegistry())
    told = misfit([answered(began=began(answer_schema=was))], new)
    assert (told is None) is fits
    if told is not None:
        assert "its model has answered already" in told
    # Nobody has answered: so whatever it has to fit.
    assert misfit([], new) is None
    assert (misfit([], new, repairs=True) is None) is (now is None)


def test_tools_that_no_journal_tells_of_have_to_be_there() -> None:
    assert misfit([], version("pay"), forgotten=("pay",)) is None
    told = misfit([], version(), forgotten=("pay",))
    assert told is not None
    assert "it has called pay" in told


def test_the_newest_move_says_what_an_answer_has_to_fit() -> None:
    given = {"name": "own", "version": "3", "kind": "structured", "response_format": SCHEMA}
    new = NewVersion(AgentTemplate.model_validate(given), (), ToolRegistry())
    moved = step(1, "moved", began=began(answer_schema=schema_digest(SCHEMA)))
    assert misfit([answered(began=began()), moved], new) is None
