"""What a `reconcile` may do: it raises, hangs, cannot tell, or gives what says neither."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.messages import ToolCall

from millstream.agents.loop.calls import Calls
from millstream.agents.loop.tools.intents import Intent
from millstream.agents.loop.tools.reconciling import Unsettled, reconciled
from millstream.agents.tools import NOT_MADE, Caller, NotMade, OutcomeUnknown, ToolRules, tool
from tests.fakes.odd_models import calling
from tests.harness.call_bench import DONE, bench

CALLER = Caller(
    tenant="acme",
    user_id="ada",
    request_id="r1",
    session_id="s1",
    attempt=1000,
    deadline_ms=0,
    template="own",
    model="local",
)
PAY = calling(("pay", {"order": "1"}, "c1"))


class Desk:
    """A tool that pays, how often it did, and a call of it that another worker began."""

    def __init__(self, became: Any, **rules: Any) -> None:
        self.made = 0
        self.calls = Calls(
            intents={
                "c1": Intent("c1", "pay", "reconcile", key="k", arguments='{"order": "1"}', at_ms=0)
            }
        )

        async def pay(order: str) -> str:
            """Pay."""
            self.made += 1
            return f"paid {order}"

        self.tool = tool(effect="reconcile", reconcile=became, **rules)(pay)

    async def reason(self) -> str:
        """Run the next attempt, which ends in doubt, and give its words."""
        outcome = await bench([PAY, DONE], self.tool).run(calls=self.calls)
        assert outcome.result.reason is not None
        assert (outcome.result.reason.code, outcome.retryable) == ("in_doubt", False)
        message = outcome.result.reason.message
        assert "(pay, c1), called at 1970-01-01T00:00:00Z with" in message
        assert "find out before you ask anew" in message
        assert self.made == 0
        return message


def raises(error: Exception) -> Any:
    async def became(_: Caller, __: dict[str, Any]) -> Any:
        raise error

    return became


def gives(value: Any) -> Any:
    return lambda *_: value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("no route"), "its `reconcile` failed: OSError: no route"),
        (TimeoutError("slow"), "its `reconcile` failed: TimeoutError: slow"),
        (OutcomeUnknown("the bank says pending"), "cannot tell: the bank says pending"),
    ],
)
async def test_one_that_raises_leaves_the_call_in_doubt(error: Exception, words: str) -> None:
    assert words in await Desk(raises(error)).reason()


@pytest.mark.parametrize("value", [None, False, NotMade, OSError("returned, not raised")], ids=repr)
async def test_one_that_says_neither_leaves_the_call_in_doubt(value: Any) -> None:
    # MostroP2P/mostro#863: that nothing is on record is not that nothing was paid.
    words = await Desk(gives(value)).reason()
    assert "its `reconcile` gave" in words


async def test_one_that_gives_what_no_model_can_be_told_leaves_the_call_in_doubt() -> None:
    assert "its `reconcile` failed: TypeError" in await Desk(gives(b"\xff")).reason()


async def hangs(_: Caller, __: dict[str, Any]) -> Any:
    await asyncio.get_running_loop().create_future()


async def test_one_that_hangs_leaves_the_call_in_doubt() -> None:
    desk = Desk(hangs, timeout_s=0.05)
    assert "its `reconcile` gave no answer within 0.05 s" in await desk.reason()


async def test_one_that_hangs_is_not_awaited_for_ever_where_its_tool_has_no_limit() -> None:
    rules = ToolRules("reconcile", reconcile=hangs)
    call: ToolCall = {"name": "pay", "args": {}, "id": "c1"}
    with pytest.raises(Unsettled, match=r"gave no answer within 0\.05 s"):
        await reconciled(call, rules, CALLER, None, within_s=0.05)


async def test_one_that_blocks_its_thread_leaves_the_call_in_doubt() -> None:
    let_go = threading.Event()
    try:
        assert "gave no answer" in await Desk(lambda *_: let_go.wait(60), timeout_s=0.05).reason()
    finally:
        let_go.set()


@pytest.mark.parametrize(
    ("value", "told", "made"),
    [
        ("paid before", "paid before", 0),
        (0, "0", 0),
        ("", "", 0),
        ({}, "{}", 0),
        (True, "true", 0),
        (NOT_MADE, "paid 1", 1),
    ],
)
async def test_one_that_says_what_became_of_the_call_settles_it(
    value: Any, told: str, made: int
) -> None:
    desk = Desk(gives(value))
    one = bench([PAY, DONE], desk.tool)
    assert (await one.run(calls=desk.calls)).result.output == "done"
    assert (one.model.results(1)[0].content, desk.made) == (told, made)
    assert (desk.calls.in_doubt, desk.calls.intents) == ({}, {})


async def test_one_that_changes_its_arguments_changes_nothing_of_the_call() -> None:
    def became(_: Caller, args: dict[str, Any]) -> Any:
        args["order"] = "2"
        return NOT_MADE

    desk = Desk(became)
    one = bench([PAY, DONE], desk.tool)
    await one.run(calls=desk.calls)
    assert one.model.results(1)[0].content == "paid 1"
