"""What is declared of a tool: what a call does that stays done, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any, Final, Literal, get_args

from millstream.agents.tools.caller import Caller
from millstream.schemas.errors import Misconfigured

__all__ = ["NOT_MADE", "Effect", "NotMade", "Reconcile", "ToolRules"]

Effect = Literal["read_only", "idempotent", "reconcile", "ask_human"]
"""What may be done about a call of which nobody knows what became:

`read_only`: it changes nothing, so it is made again at will. `idempotent`: it is made again under
the same `Caller.idempotency_key`. `reconcile`: the tool's `reconcile` function says what became of
it. `ask_human`: only a person can tell, so the run ends, `in_doubt`.
"""

RESULT_BYTES_MIN: Final = 64


class NotMade(Enum):
    """What `reconcile` gives for a call that did nothing: it is made then."""

    NOT_MADE = "not made"


NOT_MADE: Final = NotMade.NOT_MADE

Reconcile = Callable[[Caller, dict[str, Any]], Any]
"""Is asked, with the caller and the call's arguments, what became of a call.

It gives the call's result, or `NOT_MADE`, or an awaitable of one; a plain function runs in a
thread. The call is `Caller.idempotency_key`.
"""


@dataclass(frozen=True, slots=True)
class ToolRules:
    """What a tool's declaration says of its calls. Raises `Misconfigured` where it contradicts.

    Attributes:
        effect: What a call does that stays done, by what may be done about one in doubt.
        timeout_s: The most seconds of a call; `None`: as many as the template says.
        ends_run_on_error: What the tool raises fails the run, instead of being told to the model.
        result_bytes_max: The most bytes of UTF-8 of a result that the model is shown; `None`: as
            many as the template says.
        reconcile: Says what became of a call; for the effect `reconcile`, which needs it.
    """

    effect: Effect = "ask_human"
    timeout_s: float | None = None
    ends_run_on_error: bool = False
    result_bytes_max: int | None = None
    reconcile: Reconcile | None = None

    def __post_init__(self) -> None:
        """Check that the rules hold together."""
        if self.effect not in get_args(Effect):
            known = ", ".join(get_args(Effect))
            message = f"the effect {self.effect!r} is none: say one of {known}"
            raise Misconfigured(message)
        if (self.effect == "reconcile") != (self.reconcile is not None):
            message = (
                "`reconcile=` is a function that says what became of a call, and belongs to "
                "effect='reconcile': give both or neither"
            )
            raise Misconfigured(message)
        if self.timeout_s is not None and not (self.timeout_s > 0 and isfinite(self.timeout_s)):
            message = f"`timeout_s` is a number of seconds above 0, not {self.timeout_s!r}"
            raise Misconfigured(message)
        if self.result_bytes_max is not None and self.result_bytes_max < RESULT_BYTES_MIN:
            message = f"`result_bytes_max` is {RESULT_BYTES_MIN} bytes at least"
            raise Misconfigured(message)

    @property
    def has_effects(self) -> bool:
        """Whether a call may do what stays done."""
        return self.effect != "read_only"
