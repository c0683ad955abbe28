"""Calls of one answer that end in any order, of a worker that is lost behind some of them.

Public reports: restatedev/sdk-python#219, pydantic/pydantic-ai#2853.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.agents.tools import ToolRegistry, tool
from tests.harness.journalled import Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import MemoryLanes

pytestmark = pytest.mark.promise("P2")

STEPPER = clerk(tools=("step", "look"))


class Steps(Outside):
    """Calls that end in an `order`; of a worker that is to be lost, only the first `lasts` end."""

    def __init__(self, order: list[int], lasts: int) -> None:
        super().__init__()
        self.order = order
        self.lasts = lasts
        self.made: list[int] = []
        self._turn = asyncio.Condition()

    def tools(self) -> ToolRegistry:
        """Give the tool `step`, besides the others."""

        @tool(effect="read_only")
        async def step(n: int) -> str:
            """Make a step."""
            ends = asyncio.run_coroutine_threadsafe(self._ends(n), self._loop)
            await asyncio.wrap_future(ends)
            return f"made {n}"

        registry = super().tools()
        registry.register(step)
        return registry

    async def _ends(self, n: int) -> None:
        self.begun.append((f"step {n}", ""))
        if self.hold is not None and n in self.order[self.lasts :]:
            await asyncio.Event().wait()
        before = set(self.order[: self.order.index(n)])
        async with self._turn:
            await self._turn.wait_for(lambda: before <= set(self.made))
            self.made.append(n)
            self._turn.notify_all()


def script(count: int) -> str:
    calls = " + ".join(f'step {{"n": {n}}}' for n in range(count))
    return f'call: {calls}; call: look {{"n": 0}}; say: {{tool_result}}'


async def questions(world: MemoryLanes) -> list[str | None]:
    return [one.asked for one in await journal_of(world) if one.kind == "answered"]


@given(
    order=st.integers(1, 8).flatmap(lambda count: st.permutations(range(count))),
    of_8=st.integers(0, 8),
)
@settings(max_examples=12)
async def test_what_was_made_before_its_worker_was_lost_is_not_made_again_in_whatever_order(
    order: list[int], of_8: int
) -> None:
    count = len(order)
    lasts = of_8 * count // 8
    world, whole = MemoryLanes(), MemoryLanes()
    outside = Steps(order, lasts)
    # What the model said, and each call that ends.
    lost = Hold("written", 1 + lasts)
    result = await run_through(world, outside, script(count), (lost, None), (STEPPER,))
    undisturbed = await run_through(
        whole, Steps([*range(count)], count), script(count), (None,), (STEPPER,)
    )
    assert (result.status, result.output) == ("completed", "did look 0")
    assert undisturbed.output == result.output
    assert Counter(outside.made) == Counter(range(count))
    begun = Counter(name for name, _ in outside.begun if name.startswith("step"))
    assert {name for name, times in begun.items() if times > 1} <= {
        f"step {n}" for n in order[lasts:]
    }
    assert len(await questions(whole)) == 2
    assert await questions(world) == await questions(whole)
    steps = await journal_of(world)
    assert [one.step for one in steps] == list(range(count + 3))
    assert len({one.call_id for one in steps if one.kind == "done"}) == count + 1
