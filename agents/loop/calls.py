"""The model and tool calls of one run, over all of its attempts: each is made once.

An attempt that is tried again meets the same questions. What was answered in an earlier attempt is
answered from here, and neither the model is asked nor the tool run again. A model's call is known
by the answer that it follows, a tool's by the id that the model gave it: so never by a position,
which another setting of the agent would shift.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from langchain.agents.middleware import ModelResponse
from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.types import Command

from millstream.agents.loop.tools.intents import Intent
from millstream.agents.models.call_meter import CallMeter
from millstream.agents.tools import ToolRules
from millstream.schemas.lane_events import AnswerRepair

__all__ = ["Calls", "ToolAnswer"]

ToolAnswer = ToolMessage | Command[Any]


@dataclass(slots=True)
class Calls:
    """Finished calls of a run, and those with an effect that were begun.

    Attributes:
        in_doubt: Tools by the ids of calls with an effect that were begun and gave no answer.
        intents: What is known of calls that were begun, by their ids, until they are answered.
        settleable: Those of them that the next attempt settles itself, by their declared effect:
            it makes them again under the same idempotency key, or asks what became of them.
        effects: Tools by the ids of calls with an effect that were answered.
        stuck: Tools by the ids of calls whose threads go on though their time is up.
        forgotten: Tools of calls with an effect whose answers are not kept here any more.
        begun_anew: How often an attempt ended with a loop of agents that nobody known had ended.
        repair: The newest answer that the model is to give anew, `None`: there is none.
        meter: What the model calls of the newest attempt use, also if it gives no outcome.
    """

    in_doubt: dict[str, str] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    settleable: dict[str, str] = field(default_factory=dict)
    effects: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()
    begun_anew: int = 0
    repair: AnswerRepair | None = None
    meter: CallMeter | None = None
    _models: dict[str, ModelResponse[Any]] = field(default_factory=dict)
    _tools: dict[str, ToolAnswer] = field(default_factory=dict)
    _beside: dict[str, BaseMessage] = field(default_factory=dict)
    _faults: dict[str, str] = field(default_factory=dict)

    @property
    def last_fault(self) -> str | None:
        """What was wrong with the newest call that was not made."""
        return next(reversed(self._faults.values()), None)

    @property
    def with_effect(self) -> tuple[str, ...]:
        """The tools of all calls with an effect that were made, or may have been."""
        return (*self.forgotten, *self.effects.values(), *self.in_doubt.values())

    @property
    def unsettled(self) -> dict[str, str]:
        """The calls in doubt that only a person can judge, as `in_doubt` has them."""
        return {one: name for one, name in self.in_doubt.items() if one not in self.settleable}

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all tool calls that were answered, or are in doubt."""
        return frozenset((*self._tools, *self._faults, *self.in_doubt))

    def shared(self) -> Calls:
        """Give the same calls to an attempt that may have to be parted from them."""
        return replace(self)

    def part(self) -> None:
        """Keep what there is, and take in nothing any more of whom these were shared with."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, dict):
                setattr(self, each.name, value.copy())

    def fault(self, call_id: str) -> str | None:
        """Say why a call is not to be made; `None`: it is."""
        return self._faults.get(call_id)

    def answered_model(self, follows: str) -> ModelResponse[Any] | None:
        """Give what the model said behind the answer of this id, `""` for its first call."""
        return self._models.get(follows)

    def keep_model(
        self, follows: str, response: ModelResponse[Any], faults: Mapping[str, str]
    ) -> None:
        """Keep a model's answer, and what is wrong with the calls in it."""
        self._models[follows] = response
        self._faults.update(faults)

    def answered_tool(self, call_id: str) -> ToolAnswer | None:
        """Give the answer to a tool call that was made."""
        return self._tools.get(call_id)

    @property
    def models_made(self) -> int:
        """How many calls of the agent's own model were answered."""
        return len(self._models)

    def has_said(self, message_id: str | None) -> bool:
        """Tell whether a message is an answer of the agent's own model."""
        answers = (one for response in self._models.values() for one in response.result)
        return any(one.id == message_id for one in answers)

    def answered_beside(self, asked: str) -> BaseMessage | None:
        """Give a model's answer to a middleware's question, which is known by its digest."""
        return self._beside.get(asked)

    def keep_beside(self, asked: str, answer: BaseMessage) -> None:
        """Keep a model's answer to a middleware."""
        self._beside[asked] = answer

    async def tool(
        self,
        call_id: str,
        name: str,
        make: Callable[[bool], Awaitable[ToolAnswer]],
        rules: ToolRules,
    ) -> ToolAnswer:
        """Answer a tool call by making it, and keep the answer.

        `make` is told whether the call is in doubt from an earlier attempt. What it raises is
        raised, and leaves a call with an effect in doubt.
        """
        was_begun = call_id in self.in_doubt
        if rules.has_effects:
            self.in_doubt[call_id] = name
            if rules.effect != "ask_human":
                self.settleable[call_id] = name
        answer = self._tools[call_id] = await make(was_begun)
        # Also where its tool was declared to have an effect as the call was begun, and is not now.
        if self.in_doubt.pop(call_id, None) is not None:
            self.effects[call_id] = name
            self.settleable.pop(call_id, None)
            self.intents.pop(call_id, None)
        return answer
