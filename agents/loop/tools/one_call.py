"""One tool call: made, and settled by the tool's declared effect where it gives no answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import ToolCall, ToolMessage
from langgraph.types import Command

from millstream.agents.loop.containment import stops_run
from millstream.agents.loop.tools.results import as_content
from millstream.agents.loop.tools.time_limit import ToolTimedOut
from millstream.agents.tools import NOT_MADE, Caller, ToolRules
from millstream.schemas.reasons import words_of
from millstream.schemas.runs.errors import InDoubt, ToolStuck

__all__ = ["OneCall"]


@dataclass(frozen=True, slots=True)
class OneCall:
    """A call that is to be made.

    Attributes:
        call: What the model asked for.
        rules: What is declared of the tool.
        caller: Who asks, with the call's idempotency key.
        make: Makes it, once.
        timeout_s: The most seconds of it, `None`: no limit of its own.
        may_repeat: Its template takes every tool for one that can be called twice.
    """

    call: ToolCall
    rules: ToolRules
    caller: Caller
    make: Callable[[], Awaitable[ToolMessage | Command[Any]]]
    timeout_s: float | None
    may_repeat: bool

    async def answer(self, *, in_doubt: bool) -> ToolMessage | Command[Any]:
        """Give the call's answer; one `in_doubt` was begun by an earlier attempt.

        Raises `ToolTimedOut` for a call that may be told to the model as failed, `InDoubt` where
        it is not known whether a call was made, `ToolStuck` where its thread goes on.
        """
        if in_doubt and (known := await self._reconciled()) is not None:
            return known
        try:
            return await self.make()
        except ToolTimedOut as late:
            return await self._after(late)

    async def _after(self, late: ToolTimedOut) -> ToolMessage | Command[Any]:
        """Answer a call that took too long."""
        if not late.begun:
            raise late
        if not self.rules.has_effects:
            message = f"{late}; it changes nothing, and may be called again"
            raise ToolTimedOut(message) from late
        if late.is_stuck:
            raise ToolStuck(f"{late} and goes on") from late
        if self.rules.effect == "idempotent":
            # Not left to the model, whose next call would have another key.
            return await self._made_again()
        if self.rules.effect == "reconcile":
            if (known := await self._reconciled()) is not None:
                return known
            raise ToolTimedOut(f"{late}; it did nothing, and may be called again") from late
        return self._unknown(late)

    async def _made_again(self) -> ToolMessage | Command[Any]:
        try:
            return await self.make()
        except ToolTimedOut as late:
            if late.is_stuck:
                raise ToolStuck(f"{late} and goes on") from late
            return self._unknown(late)

    def _unknown(self, late: ToolTimedOut) -> ToolMessage | Command[Any]:
        why = f"{late}; it is not known whether it did what it was called for"
        if self.may_repeat:
            raise ToolTimedOut(why) from late
        what = "a tool that changes nothing is declared with effect='read_only'"
        raise InDoubt(f"{why} ({self.call['name']}, {self.call['id']}); {what}") from late

    async def _reconciled(self) -> ToolMessage | Command[Any] | None:
        """Ask what became of the call; `None`: nothing, or the tool has nobody to ask."""
        if self.rules.reconcile is None:
            return None
        name, call_id = self.call["name"], self.call["id"]
        try:
            async with asyncio.timeout(self.timeout_s):
                said = await _asked(self.rules.reconcile, self.caller, deepcopy(self.call["args"]))
            content = None if said is NOT_MADE else as_content(name, said)
        except Exception as error:
            if stops_run(error):
                raise
            message = (
                f"it is not known what became of {name} ({call_id}), and its `reconcile` failed: "
                f"{type(error).__name__}: {words_of(error)}"
            )
            raise InDoubt(message) from error
        if content is None or isinstance(content, ToolMessage | Command):
            return content
        return ToolMessage(content, name=name, tool_call_id=call_id)


async def _asked(function: Callable[..., Any], caller: Caller, args: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(caller, args)
    said = await asyncio.to_thread(function, caller, args)
    return await said if inspect.isawaitable(said) else said
