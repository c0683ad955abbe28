"""Tools that fail in every way; `note` has an effect, a line in a file."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from langchain_core.tools import StructuredTool

from millstream.agents.tools import ToolRegistry, ToolRules, built_in_tools
from tests.chaos.provider.bill import NOTES

__all__ = ["BLOCKS_S", "odd_tools"]

BLOCKS_S = 12.0
SPINS_S = 0.3
_HUGE_BYTES = 10_000_000


def odd_tools(data: Path, *, blocks_s: float = BLOCKS_S) -> ToolRegistry:
    """Register them beside the built-in ones.

    What has an effect is noted in the folder `data`; one tool blocks its thread for `blocks_s`.
    """
    data.mkdir(parents=True, exist_ok=True)
    registry = ToolRegistry(built_in_tools())

    async def note(order: str) -> str:
        """Note an order."""
        with (data / NOTES).open("a", encoding="utf-8") as lines:
            lines.write(f"{order}\n")
        return "noted"

    def blocks(order: str) -> str:
        """Block its thread past its time-out."""
        time.sleep(blocks_s)  # noqa: TID251  what it is for
        return order

    for function in (_exits, _groups, _cancels, _spins, _hangs):
        registry.register(_tool(function.__name__[1:], coroutine=function), ToolRules("read_only"))
    for plain in (_raises, _huge, _interrupts):
        registry.register(_tool(plain.__name__[1:], func=plain), ToolRules("read_only"))
    # A thread that may do something yet fails its run; one that cannot is left alone.
    registry.register(_tool("blocks", func=blocks))
    registry.register(_tool("note", coroutine=note))
    registry.register(_tool("pays", coroutine=_hangs))
    return registry


def _tool(name: str, **function: Any) -> StructuredTool:
    return StructuredTool.from_function(name=name, **function)


def _raises(order: str) -> NoReturn:
    """Raise."""
    raise OSError(order)


def _huge(order: str) -> str:
    """Give ten megabytes."""
    return order[:1] * _HUGE_BYTES


def _interrupts(order: str) -> NoReturn:
    """Interrupt, as a key does, from its thread."""
    raise KeyboardInterrupt(order)


async def _groups(order: str) -> NoReturn:
    """Raise several at once."""
    raise ExceptionGroup(order, [OSError(order), ValueError(order)])


async def _exits(order: str) -> NoReturn:
    """End the process."""
    sys.exit(order)


async def _cancels(order: str) -> NoReturn:
    """Cancel itself."""
    raise asyncio.CancelledError(order)


async def _spins(order: str) -> str:
    """Block the loop that it runs in."""
    time.sleep(SPINS_S)  # noqa: ASYNC251, TID251  what it is for
    return order


async def _hangs(order: str) -> str:
    """Never end."""
    await asyncio.Event().wait()
    return order
