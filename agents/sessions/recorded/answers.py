"""What models and tools answer as the content of a journal's step, and as whoever goes on reads it.

An answer is written before its run goes on, and the run goes on with `Recorded.answer`: so whoever
takes a run over sees what the first worker's run saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import structlog
from langchain.agents.middleware import ModelResponse
from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.types import Command, Overwrite, Send
from typing_extensions import override

from millstream.agents.ids import new_id
from millstream.agents.sessions.recorded.messages import MessageReader, MessageWriter
from millstream.agents.sessions.recorded.values import LEFT_OUT, Where
from millstream.schemas.journal.errors import JournalUnreadable
from millstream.schemas.lane_events import AnswerRepair

__all__ = [
    "Recorded",
    "ToolAnswer",
    "message_of",
    "model_answer_of",
    "recorded_message",
    "recorded_model",
    "recorded_repair",
    "recorded_tool",
    "repair_of",
    "tool_answer_of",
]

AnswerT = TypeVar("AnswerT")
_log = structlog.get_logger(__name__)

ToolAnswer = ToolMessage | Command[Any]

SEND: Final = "$send"
OVERWRITE: Final = "$overwrite"
"""The keys of objects that hold LangGraph's own, inside of a command."""


@dataclass(frozen=True, slots=True)
class Recorded(Generic[AnswerT]):
    """An answer as it is recorded.

    Attributes:
        answer: What the run goes on with: the answer itself, if all of it could be written.
        content: The same as JSON values; they share nothing with the answer.
        lost: What was left out or written as words, and where it stood; the first of it. The log
            says it too.
    """

    answer: AnswerT
    content: dict[str, Any]
    lost: Sequence[str] = ()


def recorded_model(
    response: ModelResponse[Any], faults: Mapping[str, str]
) -> Recorded[ModelResponse[Any]]:
    """Record what the agent's model said; `faults` say of calls, by id, why they are not made.

    A message without an id gets one: the next answer is known by the one that it follows.
    """
    writer = _AnswerWriter()
    if any(one.id is None for one in response.result):
        named = [
            one.model_copy(update={"id": new_id()}) if one.id is None else one
            for one in response.result
        ]
        response = ModelResponse(named, response.structured_response)
    content: dict[str, Any] = {
        "messages": [
            writer.message(one, ("messages", index), 1) for index, one in enumerate(response.result)
        ]
    }
    if response.structured_response is not None:
        form = writer.value(response.structured_response, "structured_response", 1, shown=True)
        content["structured_response"] = form
    if faults:
        content["faults"] = writer.value(dict(faults), "faults", 1, shown=True)
    answer = response if writer.is_exact else model_answer_of(content)[0]
    return _told(answer, content, writer)


def model_answer_of(content: Any) -> tuple[ModelResponse[Any], dict[str, str]]:
    """Read what the agent's model said, and the faults of its calls. Raises `JournalUnreadable`."""
    with _reading("the answer of a model"):
        reader = _AnswerReader()
        messages = [reader.message(one) for one in content["messages"]]
        faults = reader.value(content.get("faults", {}))
        response = ModelResponse(messages, reader.value(content.get("structured_response")))
        return response, {str(one): str(why) for one, why in faults.items()}


def recorded_message(message: BaseMessage) -> Recorded[BaseMessage]:
    """Record what a model said to a middleware."""
    writer = _AnswerWriter()
    content = {"message": writer.message(message, "message", 1)}
    answer = message if writer.is_exact else message_of(content)
    return _told(answer, content, writer)


def message_of(content: Any) -> BaseMessage:
    """Read what a model said to a middleware. Raises `JournalUnreadable`."""
    with _reading("the answer of a middleware's model"):
        return _AnswerReader().message(content["message"])


def recorded_tool(answer: ToolAnswer | list[ToolAnswer]) -> Recorded[Any]:
    """Record what a tool answered: a message, a command, or a list of them."""
    writer = _AnswerWriter()
    content = (
        {"answers": [writer.answer(one, ("answers", at)) for at, one in enumerate(answer)]}
        if isinstance(answer, list)
        else writer.answer(answer, "answer")
    )
    kept = answer if writer.is_exact else tool_answer_of(content)
    return _told(kept, content, writer)


def tool_answer_of(content: Any) -> Any:
    """Read what a tool answered. Raises `JournalUnreadable`."""
    with _reading("the answer of a tool"):
        reader = _AnswerReader()
        if "answers" in content:
            return [reader.answer(one) for one in content["answers"]]
        return reader.answer(content)


def recorded_repair(repair: AnswerRepair) -> Recorded[AnswerRepair]:
    """Record what a model is told of an answer to give anew."""
    return Recorded(repair, repair.model_dump(mode="json"))


def repair_of(content: Any) -> AnswerRepair:
    """Read what a model is told of an answer to give anew. Raises `JournalUnreadable`."""
    with _reading("an answer to be given anew"):
        return AnswerRepair.model_validate(content)


class _AnswerWriter(MessageWriter):
    def answer(self, answer: ToolAnswer, where: Where) -> dict[str, Any]:
        if isinstance(answer, Command):
            return {"command": self._command(answer, where)}
        return {"message": self.message(answer, where, 2)}

    def _command(self, command: Command[Any], where: Where) -> dict[str, Any]:
        self.is_exact = self.is_exact and type(command) is Command
        update = command.update
        if not isinstance(update, dict | list | tuple) and update is not None:
            # A state in a class of its own: what LangGraph takes from it.
            self.is_exact = False
            update = dict(command._update_as_tuples())  # noqa: SLF001  its own reading of it
        held = {
            "update": update,
            "goto": command.goto or None,
            "graph": command.graph,
            "resume": command.resume,
        }
        written = {
            name: self.value(value, (where, name), 2)
            for name, value in held.items()
            if value is not None
        }
        return {name: value for name, value in written.items() if value is not LEFT_OUT}

    @override
    def _other(self, value: Any, where: Where, depth: int, *, shown: bool) -> Any:
        if type(value) is Send:
            if value.timeout is not None:
                self.lose((where, "timeout"), type(value.timeout).__name__)
            arg = self.value(value.arg, (where, value.node), depth + 2, shown=shown)
            return {SEND: [value.node, None if arg is LEFT_OUT else arg]}
        if type(value) is Overwrite:
            kept = self.value(value.value, where, depth + 1, shown=shown)
            return LEFT_OUT if kept is LEFT_OUT else {OVERWRITE: kept}
        return super()._other(value, where, depth, shown=shown)


class _AnswerReader(MessageReader):
    def answer(self, written: Any) -> ToolAnswer:
        if "command" in written:
            held = {name: self.value(value) for name, value in written["command"].items()}
            return Command(**held)
        message = self.message(written["message"])
        if not isinstance(message, ToolMessage):
            problem = f"it is a message of type {message.type!r}"
            raise ValueError(problem)  # noqa: TRY004  data of another shape
        return message

    @override
    def tagged(self, key: str, held: Any) -> Any:
        if key == SEND:
            node, arg = held
            return Send(node, self.value(arg))
        if key == OVERWRITE:
            return Overwrite(self.value(held))
        return super().tagged(key, held)


def _told(answer: AnswerT, content: dict[str, Any], writer: MessageWriter) -> Recorded[AnswerT]:
    if writer.lost:
        _log.warning("a run goes on with less than it was answered", left_out=writer.lost)
    return Recorded(answer, content, writer.lost)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problem = f"{what} cannot be read from the journal: {type(error).__name__}: {error}"
        raise JournalUnreadable(problem) from error
