"""What a tool's `reconcile` says of a call: its result, that it was not made, or nothing of use."""

from __future__ import annotations

import asyncio
import inspect
from copy import deepcopy
from typing import Any, Final

from langchain_core.messages import ToolCall, ToolMessage
from langgraph.types import Command

from millstream.agents.loop.containment import stops_run
from millstream.agents.loop.tools.results import as_content
from millstream.agents.tools import NOT_MADE, Caller, NotMade, OutcomeUnknown, ToolRules
from millstream.schemas.reasons import words_of

__all__ = ["Unsettled", "reconciled"]

WITHIN_S: Final = 60.0
"""How long an answer is awaited where its tool's calls have no limit of their own."""

_SAYS: Final = "return the call's result or NOT_MADE, and raise OutcomeUnknown where it cannot tell"


class Unsettled(Exception):
    """Why a `reconcile` settles nothing, in words that follow its name."""


async def reconciled(
    call: ToolCall,
    rules: ToolRules,
    caller: Caller,
    timeout_s: float | None,
    *,
    within_s: float = WITHIN_S,
) -> ToolMessage | Command[Any] | None:
    """Ask what became of a call; `None`: it was not made.

    Raises `Unsettled` where the function raises, gives no answer in `timeout_s` (`within_s` where
    that is `None`), or gives what says neither.
    """
    assert rules.reconcile is not None  # noqa: S101  by the effect that is asked for
    within_s = within_s if timeout_s is None else timeout_s
    try:
        async with asyncio.timeout(within_s) as timer:
            said = await _asked(rules.reconcile, caller, deepcopy(call["args"]))
    except Exception as error:
        if stops_run(error):
            raise
        if timer.expired():
            message = f"gave no answer within {within_s:g} s"
        elif isinstance(error, OutcomeUnknown):
            message = f"cannot tell: {words_of(error)}"
        else:
            message = f"failed: {type(error).__name__}: {words_of(error)}"
        raise Unsettled(message) from error
    return _answer(call, said)


def _answer(call: ToolCall, said: Any) -> ToolMessage | Command[Any] | None:
    if said is NOT_MADE:
        return None
    # What a function gives that fell through, or was asked yes or no: nobody can tell from that.
    if said is None or said is False or said is NotMade or isinstance(said, BaseException):
        message = f"gave {said!r}, which says neither: {_SAYS}"
        raise Unsettled(message)
    try:
        content = as_content(call["name"], said)
    except TypeError as error:
        message = f"failed: {type(error).__name__}: {words_of(error)}"
        raise Unsettled(message) from error
    if isinstance(content, ToolMessage | Command):
        return content
    return ToolMessage(content, name=call["name"], tool_call_id=call["id"])


async def _asked(function: Any, caller: Caller, args: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(caller, args)
    said = await asyncio.to_thread(function, caller, args)
    return await said if inspect.isawaitable(said) else said
