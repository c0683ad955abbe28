"""What follows a call with an effect of which no answer is known: one table, without I/O or clock.

|                 | not begun | begun, not answered                             | answered |
|-----------------|-----------|-------------------------------------------------|----------|
| `read_only`     | make      | make                                            | take     |
| `idempotent`    | make      | make again, with the same key                   | take     |
| `reconcile`     | make      | ask the tool; make what it says was not made    | take     |
| `ask_human`     | make      | in doubt                                        | take     |
| tool gone       | make      | in doubt                                        | take     |

The effect is the stricter one of what was declared as the call was made and what is declared now:
what was unsafe stays so, and a mistake that was put right counts. Whoever takes a run over waits
before it asks (`streams/lane/runs/doubt.py`): the call may still be under way there. A template
that takes every tool for one that can be called twice makes what would be in doubt.
"""

from __future__ import annotations

from typing import Final, Literal

from millstream.agents.loop.tools.intents import Intent
from millstream.agents.tools import Effect, ToolRules
from millstream.schemas.runs.errors import InDoubt

__all__ = ["STRICTNESS", "in_doubt_of", "what_follows"]

STRICTNESS: Final[tuple[Effect, ...]] = ("read_only", "idempotent", "reconcile", "ask_human")
"""The effects, the laxest first."""

_WHY_CHARS_MAX: Final = 160


def what_follows(  # noqa: PLR0911  one for each cell of the table
    intent: Intent | None,
    rules: ToolRules | None,
    *,
    is_answered: bool = False,
    may_repeat: bool = False,
) -> Literal["take", "make", "make_again", "ask"] | InDoubt:
    """Say what becomes of a call.

    `intent` is what is recorded of its beginning, `None`: nothing, so it was not made. `rules` are
    those of its tool now, `None`: there is no such tool. `InDoubt` is given, not raised.
    """
    if is_answered:
        # The first answer stands, also where a tool gives another for the same key.
        return "take"
    if intent is None:
        return "make"
    if rules is None:
        return in_doubt_of(intent, "its tool is gone")
    if may_repeat:
        return "ask" if rules.effect == "reconcile" else "make"
    # One that this version does not know was written by a newer one, which can be trusted less.
    recorded = intent.effect if intent.effect in STRICTNESS else "ask_human"
    effect = max(recorded, rules.effect, key=STRICTNESS.index)
    if effect == "read_only":
        return "make"
    if effect == "ask_human":
        return in_doubt_of(intent, "it gave no answer", rules)
    if effect == "reconcile" and rules.reconcile is None:
        why = f"it could be asked about when it was made, and is declared {rules.effect!r} now"
        return in_doubt_of(intent, why, rules)
    return "make_again" if effect == "idempotent" else "ask"


def in_doubt_of(intent: Intent, why: str, rules: ToolRules | None = None) -> InDoubt:
    """Give the error of a call of which nobody knows: why, which call, when, and what to do."""
    if len(why) > _WHY_CHARS_MAX:
        why = why[: _WHY_CHARS_MAX - 1] + "…"
    message = (
        f"{why}; it is not known whether it did what it was called for ({intent.tool}, "
        f"{intent.call_id}), {intent.told}; find out before you ask anew"
    )
    if rules is not None and rules.effect != intent.effect:
        message += f"; it was declared {intent.effect!r}, and is {rules.effect!r} now"
    elif rules is not None and rules.effect == "ask_human":
        message += "; a tool that changes nothing is declared with effect='read_only'"
    return InDoubt(message)
