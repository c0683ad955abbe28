"""One tool call: made, and settled by the tool's declared effect where it gives no answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.messages import ToolCall, ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from millstream.agents.loop.containment import stops_run
from millstream.agents.loop.tools.in_doubt import in_doubt_of, what_follows
from millstream.agents.loop.tools.intents import Intent, arguments_text
from millstream.agents.loop.tools.reconciling import Unsettled, reconciled
from millstream.agents.loop.tools.time_limit import ToolTimedOut
from millstream.agents.tools import Caller, CallNotMade, Outcome, OutcomeUnknown, ToolRules
from millstream.agents.tools.outcomes import outcome_of
from millstream.schemas.errors import LaneLost, MillstreamError, Suspended
from millstream.schemas.ports import wall_clock_ms
from millstream.schemas.reasons import words_of
from millstream.schemas.runs.errors import InDoubt, ToolStuck

__all__ = ["PASSED_ON", "OneCall"]

PASSED_ON: Final = (LaneLost, Suspended, ToolStuck, InDoubt, GraphBubbleUp, MemoryError)
"""What ends the run, and is no answer of a tool."""


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
        at_ms: When it is made, in milliseconds since the epoch.
    """

    call: ToolCall
    rules: ToolRules
    caller: Caller
    make: Callable[[], Awaitable[ToolMessage | Command[Any]]]
    timeout_s: float | None
    may_repeat: bool
    at_ms: int = field(default_factory=wall_clock_ms)

    @property
    def intent(self) -> Intent:
        """What is known of the call if no answer comes."""
        until_ms = None if self.timeout_s is None else self.at_ms + round(self.timeout_s * 1000)
        # A call without an effect is never in doubt.
        arguments = arguments_text(self.call["args"]) if self.rules.has_effects else ""
        return Intent(
            call_id=self.call["id"] or "",
            tool=self.call["name"],
            effect=self.rules.effect,
            key=self.caller.idempotency_key,
            arguments=arguments,
            at_ms=self.at_ms,
            until_ms=until_ms,
        )

    async def answer(self, *, begun: Intent | None = None) -> ToolMessage | Command[Any]:
        """Give the call's answer; `begun`: an earlier attempt made it, and no answer is known.

        Raises what the tool raises where that is the call's answer or it was not made,
        `OutcomeUnknown` or `CallNotMade` where the model may be told so, `InDoubt` where it is not
        known whether a call did what it does, `ToolStuck` where its thread goes on.
        """
        match what_follows(begun, self.rules, may_repeat=self.may_repeat):
            case InDoubt() as doubt:
                raise doubt
            case "make_again":
                return await self._made_again(begun or self.intent)
            case "ask":
                known = await self._reconciled(begun or self.intent)
                return await self._made() if known is None else known
            case "make" | "take":
                return await self._made()

    async def _made(self) -> ToolMessage | Command[Any]:
        made = await self._tried()
        return await self._after(made) if isinstance(made, Exception) else made

    async def _tried(self) -> ToolMessage | Command[Any] | Exception:
        """Make the call; give what it raises, as what is raised while it is handled names it."""
        try:
            return await self.make()
        except Exception as error:
            if _is_passed_on(error):
                raise
            return error

    async def _after(self, error: Exception) -> ToolMessage | Command[Any]:
        """Answer a call that raised this."""
        if _outcome_of(error) != "unknown":
            raise error
        why = _words(self.call["name"], error)
        if not self.rules.has_effects:
            if not isinstance(error, ToolTimedOut):
                raise error
            message = f"{why}; it changes nothing, and may be called again"
            raise ToolTimedOut(message) from error
        if isinstance(error, ToolTimedOut) and error.is_stuck:
            raise ToolStuck(f"{why} and goes on") from error
        if self.rules.effect == "idempotent":
            # Not left to the model, whose next call would have another key.
            return await self._made_again(self.intent)
        if self.rules.effect == "reconcile":
            if (known := await self._reconciled(self.intent, why)) is not None:
                return known
            raise CallNotMade(f"{why}; it did nothing, and may be called again") from error
        raise self._unknown(self.intent, why) from error

    async def _made_again(self, intent: Intent) -> ToolMessage | Command[Any]:
        """Make a call again of which no answer is known; what is no answer now settles nothing."""
        made = await self._tried()
        if not isinstance(made, Exception):
            return made
        if _outcome_of(made) == "answered":
            raise made
        why = _words(self.call["name"], made)
        if isinstance(made, ToolTimedOut) and made.is_stuck:
            raise ToolStuck(f"{why} and goes on") from made
        raise self._unknown(intent, why) from made

    def _unknown(self, intent: Intent, why: str) -> InDoubt | OutcomeUnknown:
        if self.may_repeat:
            return OutcomeUnknown(f"{why}; it is not known whether it did what it was called for")
        return in_doubt_of(intent, why, self.rules)

    async def _reconciled(
        self, intent: Intent, why: str = "it gave no answer"
    ) -> ToolMessage | Command[Any] | None:
        """Ask what became of the call; `None`: nothing."""
        try:
            return await reconciled(self.call, self.rules, self.caller, self.timeout_s)
        except Unsettled as unsettled:
            message = f"{why}, and its `reconcile` {unsettled}"
            raise in_doubt_of(intent, message, self.rules) from unsettled


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, ToolTimedOut):
        return "unknown" if error.begun else "not_made"
    return outcome_of(error)


def _words(tool: str, error: Exception) -> str:
    """Say what happened to a call; errors of ours say it in whole sentences."""
    words = words_of(error)
    if isinstance(error, ToolTimedOut | MillstreamError) and words:
        return words
    kind = type(error).__name__
    return (
        f"the tool {tool!r} failed with {kind}: {words}"
        if words
        else (f"the tool {tool!r} failed with {kind}")
    )


def _is_passed_on(error: BaseException) -> bool:
    """Tell whether an error ends the run, or holds one beside others that does."""
    if isinstance(error, BaseExceptionGroup) and any(map(_is_passed_on, error.exceptions)):
        return True
    return isinstance(error, PASSED_ON) or stops_run(error)
