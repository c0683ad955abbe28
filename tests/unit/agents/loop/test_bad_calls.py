"""Models that call tools wrongly, for ever, or thousands at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from millstream.agents.tools import tool
from tests.fakes.odd_models import calling
from tests.harness.call_bench import DONE, Refunds, bench, end, piece


class Item(BaseModel):
    name: str
    count: int


@dataclass
class Address:
    city: str
    zip: int = 0


MADE: list[Any] = []


@tool(effect="read_only")
def order(items: list[Item], to: Address, note: str | None = None) -> str:
    """Order."""
    MADE.append((items, to, note))
    return "ordered"


GOOD: dict[str, Any] = {"items": [{"name": "a", "count": 1}], "to": {"city": "Rome"}}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"items": []}, "to: Field required"),
    "of another type": ({**GOOD, "items": "a"}, "items: Input should be a valid list"),
    "wrong inside": (
        {**GOOD, "items": [{"name": "a", "count": "many"}]},
        "items.0.count: Input should be a valid integer",
    ),
    "missing inside": ({**GOOD, "items": [{"name": "a"}]}, "items.0.count: Field required"),
    "null": ({**GOOD, "to": None}, "to"),
    "one too many": ({**GOOD, "dry_run": True}, "it has no argument 'dry_run'; known: items, note"),
    "none": ({}, "items: Field required"),
}


@pytest.mark.parametrize(("args", "words"), WRONG.values(), ids=WRONG)
async def test_a_call_with_wrong_arguments_is_not_made_and_told_what_is_wrong(
    args: dict[str, Any], words: str
) -> None:
    MADE.clear()
    one = bench([calling(("order", args, "c1"), ("order", GOOD, "c2")), DONE], order)
    assert (await one.run()).result.output == "done"
    wrong, good = one.model.results(1)
    assert (wrong.status, good.content) == ("error", "ordered")
    assert words in str(wrong.content)
    assert [([Item(name="a", count=1)], Address("Rome"), None)] == MADE


async def test_a_model_that_makes_the_same_call_for_ever_ends_with_what_bounds_it() -> None:
    says = [calling(("refund", {"order": "1"}, "c1"))]
    one = bench(says, Refunds().tool(), model_calls_max=4)
    outcome = await one.run()
    assert outcome.result.reason is not None
    assert (outcome.result.status, outcome.retryable) == ("failed", False)
    assert outcome.result.reason.message == (
        "the agent did not end within 4 model calls, the `model_calls_max` of its template"
    )
    assert len(one.model.seen) == 4


async def test_a_model_that_only_calls_what_is_not_there_is_told_what_is() -> None:
    one = bench([calling(("nosuch", {}, "c1")), DONE], Refunds().tool())
    assert (await one.run()).result.output == "done"
    (told,) = one.model.results(1)
    assert "nosuch is not a valid tool, try one of [refund]" in str(told.content)


@pytest.mark.parametrize("how", ["whole", "streamed", "in blocks"])
async def test_of_thousands_of_calls_the_first_are_made_and_one_answer_stands_for_the_others(
    how: str,
) -> None:
    # LangChain's own sum of a stream takes time by the square of its calls.
    refunds, many = Refunds(), 300 if how == "streamed" else 5_000
    said: Any = calling(*(("refund", {"order": str(n)}, f"c{n}") for n in range(many)))
    if how == "streamed":
        pieces = [piece(f'{{"order": "{n}"}}', f"c{n}", "refund", n) for n in range(many)]
        said = [*pieces, end("tool_calls")]
    elif how == "in blocks":
        blocks = [{"type": "tool_use", "id": f"c{n}", "name": "refund"} for n in range(many)]
        said.content = [{"type": "text", "text": "many"}, *blocks]
    one = bench([said, DONE], refunds.tool(), streams=how == "streamed", answer_calls_max=3)
    assert (await one.runs.run("x", template="own")).result.status == "completed"
    assert sorted(refunds.made) == ["0", "1", "2"]  # their threads run side by side
    (answer,) = (message for message in one.model.seen[1] if isinstance(message, AIMessage))
    results = one.model.results(1)
    # Each call that the model sees of itself has an answer, or providers refuse the conversation.
    assert [call["id"] for call in answer.tool_calls] == ["c0", "c1", "c2", "c3"]
    assert [one.tool_call_id for one in results] == ["c0", "c1", "c2", "c3"]
    assert [one.status for one in results] == ["success"] * 3 + ["error"]
    assert str(results[-1].content) == (
        f"this call was not made: of the {many} calls of this answer only the first 3 were made, "
        "which is as many as one answer may make; make the others in your next answers, if they "
        "are needed"
    )
    assert "tool_use" not in str(answer.content)


async def test_as_many_calls_as_an_answer_may_make_are_all_made() -> None:
    refunds = Refunds()
    said = calling(*(("refund", {"order": str(n)}, f"c{n}") for n in range(3)))
    one = bench([said, DONE], refunds.tool(), answer_calls_max=3)
    await one.run()
    assert sorted(refunds.made) == ["0", "1", "2"]  # their threads run side by side
    assert {one.status for one in one.model.results(1)} == {"success"}
