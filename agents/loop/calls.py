"""The model and tool calls of one run, over all of its attempts: each is made once.

An attempt that is tried again meets the same questions. What was answered in an earlier attempt is
answered from here, and neither the model is asked nor the tool run again. A model's call is known
by the answer that it follows, a tool's by the id that the model gave it: so never by a position,
which another setting of the agent would shift.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from time import monotonic
from typing import Any, Final, Self

from langchain.agents.middleware import ModelResponse
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.types import Command

from millstream.agents.loop.journal.asked import AskedDigest
from millstream.agents.loop.journal.model_answers import Asked, ModelAnswers
from millstream.agents.loop.journal.reserving import Reserving
from millstream.agents.loop.journal.writing import Journal
from millstream.agents.loop.tools.intents import Intent, naming_calls
from millstream.agents.models.call_meter import CallMeter
from millstream.agents.sessions.recorded.answers import (
    message_of,
    model_answer_of,
    recorded_message,
    recorded_model,
    recorded_repair,
    recorded_tool,
    repair_of,
    tool_answer_of,
)
from millstream.agents.tools import ToolRules
from millstream.agents.tools.moments import Moments
from millstream.schemas.journal.errors import JournalUnreadable
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import AnswerRepair
from millstream.schemas.ports import wall_clock_ms

__all__ = ["Calls", "ToolAnswer"]

ToolAnswer = ToolMessage | Command[Any]

FORGOT: Final = "forgot"
"""Stands in what is written of an answer that was given without what the session remembers."""

NOT_MADE: Final = "not_made"
"""Stands in what is written of the answer to a tool call that was not made."""


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
        tools_begun: Tools that were there as the run began, as its journal has them.
        forgotten: Tools of calls with an effect whose answers are not kept here any more.
        repairs_recorded: How many answers that were to be given anew the journal tells of.
        begun_anew: How often an attempt ended with a loop of agents that nobody known had ended.
        repair: The newest answer that the model is to give anew, `None`: there is none.
        meter: What the model calls of the newest attempt use, also if it gives no outcome.
        journal: Takes what the newest attempt does, `None`: nobody keeps it but these.
        reserving: Has its model calls reserved, `None`: they are not, each by itself.
        were_recorded: What stands here was read from a journal: another owner may have made it.
        asked: Digests what the newest attempt asks its model, `None`: answers are not compared.
        moments: The times that its middlewares were told.
    """

    in_doubt: dict[str, str] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    settleable: dict[str, str] = field(default_factory=dict)
    effects: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    tools_begun: frozenset[str] = frozenset()
    forgotten: tuple[str, ...] = ()
    begun_anew: int = 0
    repair: AnswerRepair | None = None
    meter: CallMeter | None = None
    journal: Journal | None = None
    reserving: Reserving | None = None
    were_recorded: bool = False
    asked: AskedDigest | None = None
    moments: Moments = field(default_factory=Moments)
    _models: ModelAnswers = field(default_factory=ModelAnswers)
    _tools: dict[str, ToolAnswer] = field(default_factory=dict)
    _beside: dict[str, BaseMessage] = field(default_factory=dict)
    # What ends the run goes with its result, and is written only if the run goes on all the same.
    _unwritten: dict[Asked, int] = field(default_factory=dict)
    _not_made: dict[str, bool] = field(default_factory=dict)
    _facts: dict[str, bool] = field(default_factory=dict)
    _repair_written: dict[str, AnswerRepair] = field(default_factory=dict)
    repairs_recorded: int = 0

    @classmethod
    def recorded(cls, steps: Sequence[JournalStep]) -> Self:
        """Give the calls that a run's journal tells of. Raises `JournalUnreadable`."""
        calls = cls(were_recorded=True)
        for step in steps:
            calls._take(step)
            calls.moments.take(step.moments or {})
            if step.began is not None:
                calls.tools_begun = frozenset(step.began.tools)
        calls.begin_loop()
        return calls

    def _take(self, step: JournalStep) -> None:
        content, call_id, name = step.content or {}, step.call_id or "", step.name or ""
        match step.kind:
            case "answered":
                self._models.take(step.follows or "", *model_answer_of(content), step.asked)
                if content.get(FORGOT) is True:
                    self.forget()
            case "beside":
                self._beside[step.asked or ""] = message_of(content)
            case "intent":
                self.in_doubt[call_id] = name
                self.intents[call_id] = Intent.recorded(step)
                if step.effect not in {None, "ask_human"}:
                    self.settleable[call_id] = name
            case "done":
                # Of one call the first answer stands.
                self._tools.setdefault(call_id, tool_answer_of(content))
                if content.get(NOT_MADE) is True:
                    self._not_made[call_id] = True
                if self.intents.pop(call_id, None) is not None:
                    self.effects[call_id] = self.in_doubt.pop(call_id)
                    self.settleable.pop(call_id, None)
            case "repair":
                self.repair = self._repair_written[""] = repair_of(content)
                self.repairs_recorded += 1
            case unknown:
                message = (
                    f"step {step.step} of the run's journal is of the kind {unknown!r}, which this "
                    "version does not know: a newer worker wrote it; find out what the run did, "
                    "and ask anew once no older worker is left"
                )
                raise JournalUnreadable(message)

    @property
    def is_new(self) -> bool:
        """Whether nothing was made so far, as far as is known here."""
        return not (self._models or self._tools or self._beside or self.in_doubt)

    def digest_of(self, turn: Sequence[BaseMessage]) -> str | None:
        """Give what stands for asking the agent's model with this turn, `None`: nothing does."""
        return None if self.asked is None else self.asked.of(turn)

    @property
    def forgot(self) -> bool:
        """Whether what the session remembers turned out too long, and the run does without."""
        return self._facts.get(FORGOT, False)

    def forget(self) -> None:
        """Have every attempt from now on do without what the session remembers."""
        self._facts[FORGOT] = True

    async def door(self) -> None:
        """Return once all that was done is committed: the next call may be made.

        Raises what the journal raises.
        """
        if (journal := self.journal) is None:
            return
        for key, took_ms in tuple(self._unwritten.items()):
            self._write_answer(journal, key, took_ms)
        self._unwritten.clear()
        if self.repair is not None and self.repair is not self._repair_written.get(""):
            self._repair_written[""] = self.repair
            journal.add("repair", content=recorded_repair(self.repair).content)
        await journal.settled()

    async def ended(self) -> None:
        """Return once what was written is committed: the agent has come to its end.

        Raises what the journal raises, and `JournalMismatch` where the run had come further.
        """
        if self.were_recorded:
            self._models.check_all_given()
        if self.journal is not None:
            await self.journal.settled()

    async def written(self) -> None:
        """Return once what was written is committed, or has failed."""
        if self.journal is not None:
            await self.journal.sent()

    async def abandon(self) -> None:
        """Wait no longer for what was written: the attempt is over."""
        if self.reserving is not None:
            self.reserving.abandon()
        if self.journal is not None:
            await self.journal.abandon()

    @property
    def last_fault(self) -> str | None:
        """What was wrong with the newest call that was not made."""
        return next(reversed(self._models.faults.values()), None)

    @property
    def with_effect(self) -> tuple[str, ...]:
        """The tools of all calls with an effect that were made, or may have been."""
        return (*self.forgotten, *self.effects.values(), *self.in_doubt.values())

    @property
    def unsettled(self) -> dict[str, str]:
        """The calls in doubt that only a person can judge, as `in_doubt` has them."""
        return {one: name for one, name in self.in_doubt.items() if one not in self.settleable}

    @property
    def awaited(self) -> tuple[str, ...]:
        """The tools of recorded calls that are to be made or settled, and were there at first."""
        if not self.tools_begun:  # what never was a tool is told to the model
            return ()
        names = self._models.unanswered(self._tools)
        names += (name for call_id, name in self.in_doubt.items() if call_id in self.settleable)
        return tuple(dict.fromkeys(one for one in names if one in self.tools_begun))

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all tool calls that were answered, or are in doubt."""
        return frozenset((*self._tools, *self._models.faults, *self.in_doubt))

    def shared(self) -> Calls:
        """Give the same calls to an attempt that may have to be parted from them."""
        return replace(self)

    def part(self) -> None:
        """Keep what there is, and take in nothing any more of whom these were shared with."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, dict | ModelAnswers | Moments):
                setattr(self, each.name, value.copy())

    def fault(self, call_id: str) -> str | None:
        """Say why a call is not to be made; `None`: it is."""
        return self._models.faults.get(call_id)

    def begin_attempt(
        self, meter: CallMeter, reserving: Reserving | None, journal: Journal | None
    ) -> None:
        """Have an attempt's calls counted, reserved and written by these."""
        self.meter, self.reserving, self.journal = meter, reserving, journal
        if journal is not None:
            journal.moments = self.moments

    def begin_loop(self) -> None:
        """Have the agent ask from its beginning again: it meets the same answers."""
        self._models.begin_loop()

    @property
    def position(self) -> int:
        """How many answers of its model the agent was given in this loop."""
        return self._models.given

    def now_ms(self) -> int:
        """Give the time as it is told here, in milliseconds since the epoch."""
        clock_ms = wall_clock_ms if self.journal is None else self.journal.clock_ms
        return self.moments.at(self.position, clock_ms())

    def answered_model(self, follows: str, asked: str | None = None) -> ModelResponse[Any] | None:
        """Give what the model said behind the answer of this id, `""` for its first call.

        One that asks anew behind the same answer, as middlewares do, is given the next one.
        `asked` stands for what is asked now. Raises `JournalMismatch` where something else was.
        """
        with naming_calls(self.intents):
            return self._models.find(follows, asked)

    def keep_model(
        self,
        follows: str,
        response: ModelResponse[Any],
        faults: Mapping[str, str],
        asked: str | None,
        *,
        took_ms: int = 0,
    ) -> ModelResponse[Any]:
        """Keep a model's answer, and what is wrong with the calls in it; give it as it is kept.

        It `took_ms` milliseconds.
        """
        key = self._models.take(follows, response, faults, asked)
        if self.journal is None:
            return response
        if any(one.tool_calls for one in response.result if isinstance(one, AIMessage)):
            return self._write_answer(self.journal, key, took_ms)
        self._unwritten[key] = took_ms
        return response

    def _write_answer(self, journal: Journal, key: Asked, took_ms: int) -> ModelResponse[Any]:
        response, asked, faults = self._models.of(key)
        recorded = recorded_model(response, faults)
        self._models.replace(key, recorded.answer)
        told = recorded.content | self._facts
        journal.add("answered", follows=key[0], asked=asked, content=told, duration_ms=took_ms)
        return recorded.answer

    def answered_tool(self, call_id: str) -> ToolAnswer | None:
        """Give the answer to a tool call that was made."""
        return self._tools.get(call_id)

    def was_not_made(self, call_id: str) -> bool:
        """Whether the answer to a tool call says that it was not made."""
        return self._not_made.get(call_id, False)

    def keep_not_made(self, call_id: str, name: str, answer: ToolAnswer) -> ToolAnswer:
        """Keep what a model is told of a call that its tool does not take; give it as it is kept.

        What tools there are, and what they take, may be different in the next attempt.
        """
        self._not_made[call_id] = True
        return self._keep_tool(call_id, name, answer, **{NOT_MADE: True})

    @property
    def models_made(self) -> int:
        """How many calls of the agent's own model were answered."""
        return len(self._models)

    def has_said(self, message_id: str | None) -> bool:
        """Tell whether a message is an answer of the agent's own model."""
        return self._models.has_said(message_id)

    def answered_beside(self, asked: str) -> BaseMessage | None:
        """Give a model's answer to a middleware's question, which is known by its digest."""
        return self._beside.get(asked)

    def keep_beside(self, asked: str, answer: BaseMessage, *, took_ms: int = 0) -> BaseMessage:
        """Keep a model's answer to a middleware, which `took_ms`; give it as it is kept."""
        if self.journal is not None:
            recorded = recorded_message(answer)
            answer = recorded.answer
            self.journal.add("beside", asked=asked, content=recorded.content, duration_ms=took_ms)
        self._beside[asked] = answer
        return answer

    def _write_intent(self, journal: Journal, call_id: str, rules: ToolRules) -> None:
        intent = self.intents.get(call_id)
        told: dict[str, Any] = {"effect": rules.effect}
        if intent is not None:
            told |= {"key": intent.key, "arguments": intent.arguments, "until_ms": intent.until_ms}
            told["at_ms"] = intent.at_ms
        journal.add("intent", call_id=call_id, name=self.in_doubt[call_id], **told)

    async def tool(
        self,
        call_id: str,
        name: str,
        make: Callable[[bool], Awaitable[ToolAnswer]],
        rules: ToolRules,
    ) -> ToolAnswer:
        """Answer a tool call by making it, and keep the answer.

        `make` is told whether the call is in doubt from an earlier attempt. What it raises is
        raised, and leaves a call with an effect in doubt. Such a call is made once its intent is
        committed, as `intents` has it.
        """
        was_begun = call_id in self.in_doubt
        journal = self.journal
        if rules.has_effects:
            self.in_doubt[call_id] = name
            if rules.effect != "ask_human":
                self.settleable[call_id] = name
            if journal is not None and not was_begun:
                self._write_intent(journal, call_id, rules)
        await self.door()
        began_s = monotonic()
        answer = await make(was_begun)
        took_ms = round((monotonic() - began_s) * 1000)
        answer = self._keep_tool(call_id, name, answer, took_ms)
        # Also where its tool was declared to have an effect as the call was begun, and is not now.
        if self.in_doubt.pop(call_id, None) is not None:
            self.effects[call_id] = name
            self.settleable.pop(call_id, None)
            self.intents.pop(call_id, None)
        return answer

    def _keep_tool(
        self, call_id: str, name: str, answer: ToolAnswer, took_ms: int = 0, **facts: bool
    ) -> ToolAnswer:
        if (journal := self.journal) is None:
            self._tools[call_id] = answer
            return answer
        recorded = recorded_tool(answer)
        self._tools[call_id] = answer = recorded.answer
        told: dict[str, Any] = {"content": recorded.content | facts, "duration_ms": took_ms}
        if self.reserving is not None:
            self.reserving.hear(answer)
            if not self._models.unanswered(self._tools):  # the model's next call waits for no other
                told["next_call"] = self.reserving.ahead()
        journal.add("done", call_id=call_id, name=name, **told)
        return answer
