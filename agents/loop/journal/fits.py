"""Whether what a run has done so far fits another version of its template."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.messages import AIMessage, ToolMessage

from millstream.agents.loop.calls import NOT_MADE
from millstream.agents.loop.journal.moves import schema_digest
from millstream.agents.loop.tools.in_doubt import STRICTNESS
from millstream.agents.sessions.recorded.answers import model_answer_of
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tool_schemas import problem_of, takes
from millstream.agents.tools import ToolRegistry
from millstream.schemas.journal.steps import JournalStep, RunBegan

__all__ = ["NewVersion", "misfit"]

NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class NewVersion:
    """The version that a run is to go on with: its template, its tools' names, and the tools."""

    template: AgentTemplate
    tools: Collection[str]
    registry: ToolRegistry


@dataclass(slots=True)
class _Recorded:
    """What a journal tells of calls of tools, by their ids."""

    names: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    effects: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    not_made: set[str] = field(default_factory=set)
    began: RunBegan | None = None
    has_answer: bool = False

    def take(self, step: JournalStep) -> None:
        call_id, content = step.call_id or "", step.content or {}
        self.began = step.began or self.began
        match step.kind:
            case "answered":
                self.has_answer = True
                self._take_answer(content)
            case "repair":
                self.has_answer = True
            case "intent":
                self.names[call_id] = step.name or ""
                self.effects[call_id] = step.effect or "ask_human"
            case "done":
                self.names.setdefault(call_id, step.name or "")
                self.answered.add(call_id)
                if content.get(NOT_MADE) is True:
                    self.not_made.add(call_id)
            case _:
                pass

    def _take_answer(self, content: Mapping[str, Any]) -> None:
        response, faults = model_answer_of(content)
        for message in response.result:
            if isinstance(message, ToolMessage):
                # Given with the answer itself: no tool was asked.
                self.not_made.add(message.tool_call_id)
            elif isinstance(message, AIMessage):
                for call in message.tool_calls:
                    call_id = call["id"] or ""
                    self.names[call_id], self.arguments[call_id] = call["name"], call["args"]
        self.not_made.update(faults)

    def counted(self) -> Iterator[tuple[str, str]]:
        """Give each call that a tool took, or is to take, by its id and the tool's name."""
        began = () if self.began is None else self.began.tools
        for call_id, name in self.names.items():
            # What never was a tool is told to the model.
            was_tool = call_id in self.answered or call_id in self.effects or name in began
            if call_id not in self.not_made and was_tool:
                yield call_id, name


def misfit(
    steps: Sequence[JournalStep],
    version: NewVersion,
    *,
    forgotten: Iterable[str] = (),
    repairs: bool = False,
) -> str | None:
    """Say what of a run's journal does not fit a version of its template; `None`: all of it does.

    Each tool that it called has to be among the version's, as it called it or laxer in what may be
    done about a call in doubt. A call without an answer has to fit what its tool takes. What an
    answer has to fit may be another only where there is none yet. `forgotten` are tools that the
    run called and its journal does not tell of; one that `repairs` has given an answer that did not
    fit. Raises `JournalUnreadable`.
    """
    recorded = _Recorded(has_answer=repairs)
    for step in steps:
        recorded.take(step)
    called = tuple(recorded.counted())
    names = dict.fromkeys((*(name for _, name in called), *forgotten))
    if gone := [one for one in names if one not in version.tools]:
        return (
            f"it has called {_some(gone)}, which version {version.template.version!r} does not "
            "have: give that version the tool, or let the run go on with its own"
        )
    problems = (
        *(_stricter(recorded, version, *one) for one in called),
        *(_unfit(recorded, version, *one) for one in called if one[0] not in recorded.answered),
        _other_answer(recorded, version),
    )
    return next((one for one in problems if one is not None), None)


def _stricter(recorded: _Recorded, version: NewVersion, call_id: str, name: str) -> str | None:
    was = recorded.effects.get(call_id)
    now = version.registry.rules(name).effect
    # One that this version does not know is taken for the strictest.
    if was not in STRICTNESS or STRICTNESS.index(now) <= STRICTNESS.index(was):
        return None
    return (
        f"it has called {name} ({call_id}) as {was!r}, and the tool is declared {now!r} now, which "
        "is stricter: let the run end with a worker that has the tool as it was, or cancel it"
    )


def _unfit(recorded: _Recorded, version: NewVersion, call_id: str, name: str) -> str | None:
    registry = version.registry
    if name in registry.absent:
        return (
            f"its call of {name} ({call_id}) has no answer, and the tool is not there now, so that "
            "nobody can say whether it takes the call: bring it back, then move the run"
        )
    if name not in registry.names() or (args := recorded.arguments.get(call_id)) is None:
        return None
    (tool,) = registry.pick((name,))
    why = problem_of(tool, args, registry.arguments(name))
    if why is None and takes(tool, args):
        return None
    told = "" if why is None else f" ({why})"
    return (
        f"its call of {name} ({call_id}) has no answer, and the tool takes other arguments "
        f"now{told}: let the run go on with its own version, or cancel it"
    )


def _other_answer(recorded: _Recorded, version: NewVersion) -> str | None:
    now = schema_digest(version.template.response_format)
    was = None if recorded.began is None else recorded.began.answer_schema
    # Where nobody told of a schema, one is in doubt only if there is one now.
    if not recorded.has_answer or (was or "") == now:
        return None
    known = (
        "the answer has to fit another schema"
        if was is not None
        else ("it is not known which schema its answer has to fit")
    )
    return (
        f"its model has answered already, and {known} in version {version.template.version!r}: let "
        "the run go on with its own version, or cancel it and ask anew"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
