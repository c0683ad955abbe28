"""What a provider does to a request, call by call: a script, and what has to come of it.

A request's id is its script: `p00012.odd.reset.call-note.usage-none` is number 12, runs in the
template `odd_agent`, and of its model calls the first is reset, the second calls a tool, the third
answers and reports no usage; any further one answers. So the server, the worker's tools and the
audit need to know nothing else of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tests.harness.audit import ANY_TEXT, Asked

__all__ = ["STEPS", "TEMPLATES", "Fate", "Script", "Step", "answer_of", "plan", "provider_value"]

ATTEMPTS_MAX: Final = 3
TEMPLATES: Final = {
    "chat": "chat_agent",
    "odd": "odd_agent",
    "slow": "slow_agent",
    "form": "structured_agent",
}
"""By what stands in a script; those of `odd` and `slow` have tools, `slow` ends attempts soon."""

Kind = Literal["answers", "passes", "ends", "goes on"]


@dataclass(frozen=True, slots=True)
class Step:
    """One model call: it answers, fails in a way that passes or ends the run, or calls a tool.

    `code` is that of the run's reason if it fails by this step. `templates`: where it may stand.
    """

    kind: Kind
    code: str = ""
    templates: tuple[str, ...] = ("chat", "odd", "form")
    repeats: bool = False
    """A tool that a further attempt meets again, and that fails it again."""


_PASSES = Step("passes", "model_failed")
_TEXT = ("chat", "odd")
_ANSWERS = Step("answers", templates=_TEXT)
_TOOL = Step("goes on", templates=("odd",))
_SLOW = ("slow",)

STEPS: Final[dict[str, Step]] = {
    # What breaks off, or is told to come back.
    "eof": _PASSES,
    "reset": _PASSES,
    "half-json": _PASSES,
    "html-in-stream": _PASSES,
    "html-200": _PASSES,
    "empty-body": _PASSES,
    "overloaded-at-once": _PASSES,
    "overloaded-in-midst": _PASSES,
    "rate-limit-seconds": _PASSES,
    "rate-limit-date": _PASSES,
    "rate-limit-ms": _PASSES,
    "status-500": _PASSES,
    "status-503": _PASSES,
    "status-529": _PASSES,
    "html-502": _PASSES,
    "no-text": Step("passes", "model_failed", templates=_TEXT),
    "stall": Step("passes", "attempt_timed_out", templates=_SLOW),
    # What no further attempt helps.
    "quota": Step("ends", "quota_exhausted"),
    "refused": Step("ends", "content_refused"),
    "key": Step("ends", "model_unavailable"),
    "bad-request": Step("ends", "failed"),
    "too-long": Step("ends", "input_too_long"),
    # Answers, and what is said of their usage.
    "ok": Step("answers", templates=("chat", "odd", "slow", "form")),
    "slow": _ANSWERS,
    "usage-running": _ANSWERS,
    "usage-deltas": _ANSWERS,
    "usage-twice": _ANSWERS,
    "usage-none": _ANSWERS,
    "usage-zero": _ANSWERS,
    "usage-null": _ANSWERS,
    "usage-negative": _ANSWERS,
    "usage-huge": _ANSWERS,
    "usage-fraction": _ANSWERS,
    "endless": _ANSWERS,
    # Tool calls: what is not whole is told to the model, what a tool does as well or ends the run.
    "no-json": _TOOL,
    "unknown-tool": _TOOL,
    "same-id": _TOOL,
    "announced": _TOOL,
    "cut-call": Step("ends", "tool_call_cut", templates=("odd",)),
    "call-note": _TOOL,
    "call-raises": _TOOL,
    "call-huge": _TOOL,
    "call-groups": _TOOL,
    "call-both": _TOOL,
    "call-spins": _TOOL,
    "call-exits": Step("ends", "failed", templates=("odd",)),
    "call-interrupts": Step("ends", "failed", templates=("odd",)),
    "call-cancels": Step("ends", "failed", templates=("odd",)),
    "call-blocks": Step("ends", "tool_stuck", templates=_SLOW),
    "call-hangs": Step("passes", "attempt_timed_out", templates=_SLOW, repeats=True),
    "call-pays": Step("ends", "in_doubt", templates=_SLOW),
}


_NOTES: Final = frozenset({"call-note", "call-both"})


@dataclass(frozen=True, slots=True)
class Fate:
    """How a run ends: `code` is its reason's, empty if it completes."""

    code: str
    notes: int
    """How often its tool with an effect runs."""

    whole_text: bool
    """Whether its text is known."""


@dataclass(frozen=True, slots=True)
class Script:
    """A request: its number, its template by a short name, its steps."""

    number: int
    template: str
    steps: tuple[str, ...]

    @classmethod
    def of(cls, request_id: str) -> Script:
        """Read one from a request's id."""
        number, template, *steps = request_id.split(".")
        return cls(int(number[1:]), template, tuple(steps))

    @property
    def request_id(self) -> str:
        """The request's id."""
        return ".".join((f"p{self.number:05}", self.template, *self.steps))

    def step(self, call: int) -> str:
        """Give what happens to a model call, by its number from 0.

        A tool of the template that ends attempts soon is called until it was: on a busy machine an
        attempt may end before.
        """
        if self.template == "slow" and self.steps[0].startswith("call-"):
            return self.steps[0]
        if self.steps[-1] == "too-long" and call >= len(self.steps):
            return "too-long"  # also without the session's earlier turns
        return self.steps[call] if call < len(self.steps) else "ok"

    @property
    def fate(self) -> Fate:
        """What has to come of it."""
        failed = notes = 0
        for name in (*self.steps, "ok"):
            step = STEPS[name]
            notes += name in _NOTES
            if step.repeats:
                failed = ATTEMPTS_MAX
            elif step.kind == "passes":
                failed += 1
            if step.kind == "ends" or failed >= ATTEMPTS_MAX:
                return Fate(step.code, notes, whole_text=False)
            if step.kind == "answers":
                known = name != "endless" and self.template != "form"
                return Fate("", notes, whole_text=known)
        raise AssertionError(self)


def answer_of(request_id: str) -> str:
    """Give the text that the model answers with."""
    return f"{request_id} is answered in so many words"


def plan(requests: int, rng: random.Random) -> tuple[Asked, ...]:
    """Plan requests: each step at least once, where there are so many, and then at random."""
    scripts = []
    for number in range(requests):
        name = list(STEPS)[number] if number < len(STEPS) else ""
        template, steps = _steps(name, rng)
        scripts.append(Script(number, template, steps))
    rng.shuffle(scripts)
    return tuple(_asked(one) for one in scripts)


def provider_value(one: Asked) -> bytes:
    """Give the record of a request, as an upstream would write it."""
    request = {
        "user_id": one.user_id,
        "session_id": one.session_id,
        "request_id": one.request_id,
        "input": one.request_id,
        "template": TEMPLATES[Script.of(one.request_id).template],
    }
    return json.dumps(request).encode()


_KINDS: Final = ("answers", "answers", "answers", "passes", "passes", "goes on", "goes on", "ends")
_SLOW_EVERY: Final = 25
_SESSION_REQUESTS: Final = 3
_USERS: Final = 40


def _steps(name: str, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    if not name:
        kind = rng.choice(_KINDS)
        slow = rng.randrange(_SLOW_EVERY) == 0
        fitting = [each for each, step in STEPS.items()
                   if (step.templates == _SLOW if slow else
                       step.kind == kind and step.templates != _SLOW)]  # fmt: skip
        name = rng.choice(fitting)
    template = rng.choice(STEPS[name].templates)
    before = _before(template, rng)
    return template, (*before, name)


def _before(template: str, rng: random.Random) -> Sequence[str]:
    """Give up to two steps that others may follow."""
    if template == "slow":
        return ()  # its time is short, and one failure more may be the machine's
    fitting = [each for each, step in STEPS.items()
               if step.kind in {"passes", "goes on"} and template in step.templates]  # fmt: skip
    return [rng.choice(fitting) for _ in range(rng.choice((0, 0, 0, 1, 1, 2)))]


def _asked(script: Script) -> Asked:
    fate = script.fate
    name = script.request_id
    # What fails is followed by what must begin all the same, and answer.
    session = script.number // _SESSION_REQUESTS
    return Asked(
        name,
        f"u{session % _USERS:04}",
        f"s{session}",
        answer=answer_of(name) if fate.whole_text else ANY_TEXT,
        fails=bool(fate.code),
    )
