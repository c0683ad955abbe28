"""How an answer is shown as it comes: as text for people, or as JSON Lines."""

from __future__ import annotations

import sys
from typing import Final

from millstream.gateway.console.cleaning import harmless
from millstream.gateway.console.follow import Told
from millstream.gateway.console.rendering import (
    entry_json,
    how_completed,
    money,
    reason_text,
    step_text,
    structured_text,
    tokens_text,
)
from millstream.gateway.console.terminal import (
    print_data,
    print_json_line,
    print_text,
    progress_console,
)
from millstream.gateway.exits import ExitCode, exit_code_of_result
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.steps import AgentStep
from millstream.streams.bus.answer import Ended, StartedAnew, Stepped, Text

__all__ = ["JsonShow", "TextShow", "ending"]

# No record says which of the three became of an attempt.
_BEGINS_ANEW: Final = (
    "the answer begins anew (the attempt that wrote this failed, was stopped or was lost):"
)
_BEGINS: Final = "another attempt begins (the one before failed, was stopped or was lost)"
_VOID: Final = "void, since the attempt that wrote it failed, was stopped or was lost:"
_MODEL_CALLS: Final = frozenset({"model_start", "model_end", "model_error"})


class JsonShow:
    """Prints each event as a line of JSON."""

    def take(self, told: Told) -> ExitCode | None:
        """Print a record; gives the exit code if it is the last."""
        print_json_line(entry_json(told.delivery))
        return _ends_with(told)

    def broke_off(self) -> None:
        """Nothing is left half written."""


class TextShow:
    """Prints the answer's text as it comes, and at the end how it ended.

    Where standard output is no terminal, the text comes with the end: what a reader there has got
    cannot be taken back if the answer begins anew. What is void then goes to standard error.

    Of the steps that are given to it, those of models are left out without `model_calls`.
    """

    def __init__(self, *, model_calls: bool = True) -> None:
        self._in_line = False
        self._model_calls = model_calls
        self._console = progress_console()
        self._at_once = sys.stdout.isatty()
        self._has_written = False
        self._held: list[str] = []
        self._late: list[AgentStep] = []

    def take(self, told: Told) -> ExitCode | None:
        """Show what a record adds; gives the exit code if it is the last."""
        for piece in told.pieces:
            match piece:
                case Text(text=text):
                    self._write(text)
                case StartedAnew():
                    self._begin_anew()
                case Stepped(step=step) if not self._model_calls and step.kind in _MODEL_CALLS:
                    pass
                case Stepped(step=step, position=position):
                    self._tell_step(step, late=position.text_bytes > step.text_bytes)
                case Ended(result=result):
                    self.broke_off()
                    if (answer := structured_text(result)) is not None:
                        print_data(answer)
                    self._console.print(ending(result, unpriced=told.unpriced))
        if isinstance(told.delivery.event, DeadLetter):
            self._console.print(f"not accepted: {_why(told.delivery.event)}")
        return _ends_with(told)

    def broke_off(self) -> None:
        """Write what is held back, and end the line that the answer stands in."""
        held = "".join(self._held)
        self._held.clear()
        if held:
            print_text(held)
            self._in_line = not held.endswith("\n")
        self._end_line()

    def _write(self, text: str) -> None:
        if not self._at_once:
            self._held.append(text)
            return
        print_text(text)
        self._has_written = True
        self._in_line = not text.endswith("\n")
        if not self._in_line:
            self._end_line()

    def _tell_step(self, step: AgentStep, *, late: bool) -> None:
        if late and self._in_line:
            # Text behind its place stands there already: the line is written to its end first.
            self._late.append(step)
            return
        self._end_line()
        self._console.print(step_text(step))

    def _begin_anew(self) -> None:
        void = "".join(self._held)
        self._held.clear()
        self._end_line()
        if void:
            self._console.print(_VOID)
            self._console.print(harmless(void))
        else:
            self._console.print(_BEGINS_ANEW if self._has_written else _BEGINS)
        self._has_written = False

    def _end_line(self) -> None:
        if self._in_line:
            print_text("\n")
            self._in_line = False
        for step in self._late:
            self._console.print(step_text(step))
        self._late.clear()


def ending(result: AgentResult, *, unpriced: bool = False) -> str:
    """Say how a request ended and what it cost; nobody knows of a model that is `unpriced`."""
    cost = "no price" if unpriced and not result.cost_micros else money(result.cost_micros)
    spent = f"{tokens_text(result.usage)}, {cost}"
    took = f"{max(0, result.at_ms - result.accepted_at_ms) / 1000:.2f} s"
    if result.status == "completed":
        return f"{how_completed(result)} in {took} by {result.model}: {spent}"
    return f"{result.status} after {took}, {_why(result)} ({spent})"


def _why(event: AgentResult | DeadLetter) -> str:
    # What to do stands at a reason's end.
    return reason_text(event.reason, whole=True)


def _ends_with(told: Told) -> ExitCode | None:
    match told:
        case Told(pieces=(*_, Ended(result=result))):
            return exit_code_of_result(result)
        case Told(delivery=delivery) if isinstance(delivery.event, DeadLetter):
            return ExitCode.REJECTED
        case _:
            return None
