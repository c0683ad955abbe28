"""Calls in threads of a loop of agents: none waits for another that hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.hosting.agents_loop import AgentsOfLoop
from millstream.agents.hosting.call_threads import CallThreads
from millstream.agents.hosting.host import AgentHost
from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.schemas.errors import Retryable
from tests.contracts.run_agent_contract import Attempts
from tests.support import eventually

HUNG = 40
"""More than a pool of Python's has threads on a machine of up to 32 cores."""


class Synchronous(BaseChatModel):
    """A model whose client blocks, until it is let go if it `hangs`."""

    let_go: Any
    hung: Any
    hangs: bool = False

    @property
    def _llm_type(self) -> str:
        return "synchronous"

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        return self

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        if self.hangs:
            self.hung.append(1)
            self.let_go.wait(60)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("fine"))])


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("template", ["chat_agent", "react_agent"])
async def test_models_that_hang_in_threads_hold_up_no_other(
    let_go: threading.Event, template: str
) -> None:
    own = next(one for one in BUILT_IN_TEMPLATES if one.name == template)
    hung: list[int] = []
    bad = Synchronous(let_go=let_go, hung=hung, hangs=True)
    good = Synchronous(let_go=let_go, hung=hung)
    factory = AgentFactory(
        default_model="good",
        templates=(own, own.model_copy(update={"name": "bad", "models": ("bad",)})),
        resolve=lambda name, **_: bad if name == "bad" else good,
    )
    host = AgentHost(lambda: AgentsOfLoop(AgentExecutor(factory).run))
    attempts = Attempts(host.run, factory)
    try:
        waiting = [asyncio.create_task(attempts.make("x", template="bad")) for _ in range(HUNG)]
        await eventually(lambda: len(hung) == HUNG)
        outcome: RunOutcome = await attempts.make("x", template=template)
        assert (outcome.result.status, outcome.result.output) == ("completed", "fine")
        let_go.set()
        assert {one.result.status for one in await asyncio.gather(*waiting)} == {"completed"}
    finally:
        await host.close()


async def test_calls_beyond_the_bound_are_refused_until_one_ends(let_go: threading.Event) -> None:
    threads = CallThreads(threads_max=1)
    first = threads.submit(let_go.wait, 60)
    with pytest.raises(Retryable, match="1 calls"):
        threads.submit(int)
    let_go.set()
    assert await asyncio.wrap_future(first)
    await eventually(lambda: threads._free._value == 1)  # type: ignore[attr-defined]
    assert await asyncio.wrap_future(threads.submit(int, "2")) == 2


async def test_what_a_call_raises_is_raised_where_it_is_awaited() -> None:
    failing = CallThreads().submit(int, "two")
    with pytest.raises(ValueError, match="two"):
        await asyncio.wrap_future(failing)
