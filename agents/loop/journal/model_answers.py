"""What the agent's model answered in a run: each answer by the one that it follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from langchain.agents.middleware import ModelResponse
from langchain_core.messages import AIMessage, BaseMessage

from millstream.agents.loop.journal.unanswered import tools_unanswered
from millstream.schemas.journal.errors import JournalMismatch

__all__ = ["CHANGED", "Asked", "ModelAnswers"]

Asked = tuple[str, int]
"""The id of the answer that one follows, and how many others in a loop of agents follow the same"""


CHANGED: Final = (
    "the template, its prompt or a middleware was changed under the same version, or the session's "
    "earlier turns are not the same; give a change a version of its own"
)
"""Why a run does not fit its journal, and what to do."""


@dataclass(slots=True)
class ModelAnswers:
    """The answers of a run's own model, over all of its attempts.

    Attributes:
        faults: What is wrong with tool calls in them that are not to be made, by their ids.
    """

    faults: dict[str, str] = field(default_factory=dict)
    _answers: dict[Asked, ModelResponse[Any]] = field(default_factory=dict)
    _asked: dict[Asked, str | None] = field(default_factory=dict)
    # How many answers the loop under way was given behind one.
    _given: dict[str, int] = field(default_factory=dict)

    def copy(self) -> ModelAnswers:
        """Give the same ones, to be added to by themselves."""
        return ModelAnswers(
            self.faults.copy(), self._answers.copy(), self._asked.copy(), self._given.copy()
        )

    def __len__(self) -> int:
        """Give how many there are."""
        return len(self._answers)

    @property
    def given(self) -> int:
        """How many the loop under way was given."""
        return sum(self._given.values())

    def begin_loop(self) -> None:
        """Have the agent ask from its beginning again: it meets the same answers."""
        self._given.clear()

    def find(self, follows: str, asked: str | None) -> ModelResponse[Any] | None:
        """Give the next answer behind the one of this id, `""` for the first one.

        `asked` stands for what is asked now. Raises `JournalMismatch` where something else was.
        """
        key = (follows, self._given.get(follows, 0))
        response, was = self._answers.get(key), self._asked.get(key)
        if response is None:
            return None
        if None not in {was, asked} and was != asked:
            number = list(self._answers).index(key) + 1
            message = (
                f"the answer to the run's model call {number} was given to something else than is "
                f"asked now: {CHANGED}, and have a middleware that tells the model times, ids or "
                "random numbers take them from its `Caller`"
            )
            raise JournalMismatch(message)
        self._given[follows] = key[1] + 1
        return response

    def check_all_given(self) -> None:
        """Raise `JournalMismatch` where the loop ended and was not given all of them."""
        given, known = self.given, len(self._answers)
        if given < known:
            message = (
                f"the agent came to its end behind model call {given} of its run, of which {known} "
                f"are recorded: {CHANGED}; find out what the run did before you ask anew"
            )
            raise JournalMismatch(message)

    def take(
        self,
        follows: str,
        response: ModelResponse[Any],
        faults: Mapping[str, str],
        asked: str | None,
    ) -> Asked:
        """Take in an answer, and what is wrong with the calls in it; gives what it is known by."""
        key = (follows, self._given.get(follows, 0))
        self._given[follows] = key[1] + 1
        self._answers[key] = response
        self.faults.update(faults)
        self._asked[key] = asked
        return key

    def replace(self, key: Asked, response: ModelResponse[Any]) -> None:
        """Put an answer in the form in which it is kept."""
        self._answers[key] = response

    def of(self, key: Asked) -> tuple[ModelResponse[Any], str | None, dict[str, str]]:
        """Give an answer, what stands for what was asked, and what is wrong with its calls."""
        response = self._answers[key]
        called = [
            call["id"] or ""
            for one in response.result
            if isinstance(one, AIMessage)
            for call in one.tool_calls
        ]
        faults = {one: self.faults[one] for one in called if one in self.faults}
        return response, self._asked[key], faults

    @property
    def newest(self) -> list[BaseMessage]:
        """What the newest of them says; nothing where there is none."""
        return [] if not self._answers else next(reversed(self._answers.values())).result

    def unanswered(self, answered: Mapping[str, Any]) -> list[str]:
        """Give the tools that the newest one calls, without those that are `answered`, by id."""
        return tools_unanswered(self.newest, (answered, self.faults))

    def has_said(self, message_id: str | None) -> bool:
        """Tell whether a message is one of them."""
        answers = (one for response in self._answers.values() for one in response.result)
        return any(one.id == message_id for one in answers)
