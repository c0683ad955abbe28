"""What can be wrong with a run's journal; each ends the run, and says what to do."""

from __future__ import annotations

from millstream.schemas.errors import Terminal
from millstream.schemas.runs.errors import InDoubt

__all__ = ["JournalGone", "JournalMismatch", "JournalUnreadable", "StepTooLarge"]


class JournalGone(InDoubt):
    """Not all of a run's journal is there, so that it is not known which calls were made."""


class JournalMismatch(Terminal):
    """A recorded answer is not one to what is asked now: another prompt, template or tool."""

    code = "journal_mismatch"


class JournalUnreadable(Terminal):
    """A step of a run's journal is of a kind or form that this version does not know."""

    code = "journal_unreadable"


class StepTooLarge(Terminal):
    """An answer of a model or tool that no records of the journal can hold."""

    code = "step_too_large"
