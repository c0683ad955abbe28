"""What a run's next model call may use: told to who reserves it, before it is made and ahead of it.

Ahead of it, with the answer of the last tool that it waits for: so what is reserved is committed
with what is journalled, and the call itself waits for nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.types import Command

from millstream.agents.loop.journal.writing import OVER
from millstream.agents.models.call_meter import CallMeter
from millstream.agents.models.usage import FRAME_TOKENS, ModelCall, sent_bytes
from millstream.schemas.base import CallUsage, Usage
from millstream.schemas.errors import LaneLost
from millstream.schemas.ports import ReserveCall
from millstream.schemas.runs.reservations import NextCall

__all__ = ["Reserving"]

_Answer = ToolMessage | Command[object]


class Reserving:
    """Has the model calls of one attempt reserved by `reserve`; `meter` knows what they use.

    `first` is what was reserved with the attempt, for its first call.
    """

    def __init__(self, reserve: ReserveCall, meter: CallMeter, first: Usage) -> None:
        self._reserve = reserve
        self._meter = meter
        self._first = first
        self._newest: ModelCall | None = None
        self._told_tokens = 0

    async def reserve(self, call: ModelCall) -> None:
        """Return once a call may be made that has just begun to count. Raises `BudgetExceeded`."""
        if call.is_own:
            self._newest, self._told_tokens = call, 0
        call.most = self._meter.most(call)
        asked = self._next(call.most, call.model, self._meter.others(call))
        # As most runs are: what was reserved suffices, and is not much more than is needed.
        if call.is_own and not (asked.over or asked.beside) and self._fits(call.most):
            return
        await self._reserve(asked)

    def abandon(self) -> None:
        """Reserve nothing any more: the attempt is over."""
        # As of the journal: what reserves leads to the run, and the run to this.
        self._reserve = _nobody_reserves

    def _fits(self, most: Usage) -> bool:
        first = self._first
        is_near = first.input_tokens // 2 <= most.input_tokens <= first.input_tokens
        return is_near and most.output_tokens <= first.output_tokens

    def hear(self, answer: _Answer | list[_Answer]) -> None:
        """Take in a tool's answer, which the agent's next own call is to read."""
        self._told_tokens += sum(sent_bytes(one) + FRAME_TOKENS for one in _messages(answer))

    def ahead(self) -> NextCall | None:
        """Give what the agent's next own call may use, once all tools have answered.

        `None` where this attempt has made none, so that nothing is known of its prompt.
        """
        newest = self._newest
        if newest is None or newest.most is None:
            return None
        # What was written under a limit is no more to read, whatever its bytes.
        wrote = newest.most.output_tokens
        if newest.received_bytes:
            wrote = min(wrote, newest.received_bytes)
        read = newest.most.input_tokens + wrote + FRAME_TOKENS + self._told_tokens
        most = Usage(input_tokens=read, output_tokens=newest.most.output_tokens)
        return self._next(most, None, self._meter.others(newest))

    def _next(self, most: Usage, model: str | None, beside: tuple[CallUsage, ...]) -> NextCall:
        return NextCall(most, model, beside, self._meter.over)


async def _nobody_reserves(_: NextCall) -> None:
    raise LaneLost(OVER)


def _messages(answer: _Answer | list[_Answer]) -> Sequence[BaseMessage]:
    # LangGraph hands on a list as well, which the types of its middlewares leave out.
    if isinstance(answer, list):
        return [message for one in answer for message in _messages(one)]
    if not isinstance(answer, Command):
        return (answer,)
    update = answer.update
    told = update.get("messages", ()) if isinstance(update, dict) else ()
    return [one for one in told if isinstance(one, BaseMessage)] if isinstance(told, list) else ()
