"""What became of commands on sessions, so that one that comes again has no second effect."""

from __future__ import annotations

from operator import itemgetter

from millstream.schemas.sessions.states import SessionAnswered
from millstream.schemas.topics import SESSION_ANSWERS
from millstream.streams.lane.state.folds import Begin, Fold, SnapshotBody, Source
from millstream.streams.lane.state.sessions.fair_memory import FairMemory

__all__ = ["ANSWERS_MAX", "CommandKey", "SessionAnswers"]

CommandKey = tuple[str, str, str]
"""Tenant, user and command id."""

ANSWERS_MAX = 5_000
"""Commands of one partition whose answer is remembered."""


class SessionAnswers:
    """The answers given last: a fold. Memory: some 1 kB for each, at most `ANSWERS_MAX`.

    Beyond that, of whoever has most the oldest is forgotten.

    It is ahead of commits, as what they answer is: one that comes again meanwhile must find it.

    What came of an older command is on the log still, and the command is decided anew: on the
    session as it is now, which it mostly leaves as it is.
    """

    def __init__(self) -> None:
        self._answers = FairMemory[SessionAnswered](ANSWERS_MAX)

    def as_fold(self) -> Fold:
        """Give what the list is told of it."""
        return Fold(
            name="session_answers",
            topics=(Source(SESSION_ANSWERS, Begin.LOG),),
            fold={SessionAnswered: self.fold},
            entries=("session_answers",),
            state=lambda: {"session_answers": [one for _, one in self._answers.items()]},
            load=self._load,
            before_commit=True,
            canonical=lambda: [one for _, one in sorted(self._answers.items(), key=itemgetter(0))],
        )

    def fold(self, answer: SessionAnswered) -> None:
        """Take in an answer; what stood in it of the session may be old when it is given again."""
        key = (answer.tenant, answer.user_id, answer.command_id)
        self._answers.put(key, answer.model_copy(update={"session": None}))

    def get(self, key: CommandKey) -> SessionAnswered | None:
        """Give what became of a command, `None` for one that is new, or long ago."""
        return self._answers.get(key)

    def _load(self, body: SnapshotBody) -> None:
        for one in body.entries["session_answers"]:
            self.fold(SessionAnswered.model_validate(one))
