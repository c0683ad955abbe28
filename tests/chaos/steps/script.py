"""What a request's id says of its run: how many steps, and with which tools.

`a-7.10.2` is a run of ten steps. In each the model calls one tool, and the run goes on with what
that gave; then it says its last. The tools take turns, the first one is the third of `TOOLS`.
"""

from __future__ import annotations

import json
import random
from typing import Final

from millstream.agents.tools import Effect
from tests.harness.audit import Asked

__all__ = ["TEMPLATE", "TOOLS", "answer_of", "calls_of", "plan", "steps_of", "tool_of", "words_of"]

TEMPLATE: Final = "steps_agent"
TOOLS: Final[dict[str, Effect]] = {
    "look": "read_only",
    "pay": "idempotent",
    "book": "reconcile",
    "send": "ask_human",
}
_STEPS = 3
_REQUESTS_PER_SESSION = 4


def steps_of(request_id: str) -> int:
    """Give how many tool calls a run makes, one after the other."""
    return int(request_id.split(".")[1])


def tool_of(request_id: str, step: int) -> str:
    """Give the tool that is called in a step."""
    return list(TOOLS)[(int(request_id.split(".")[2]) + step) % len(TOOLS)]


def calls_of(request_id: str) -> int:
    """Give how many calls a run makes: two a step, and the last of its model."""
    return 2 * steps_of(request_id) + 1


def words_of(request_id: str, step: int) -> tuple[str, ...]:
    """Give what the model says in a step, the last one included, as it is written."""
    if step < steps_of(request_id):
        return (f"{request_id} ", "step ", f"{step}")
    return (f"{request_id} ", "is ", "done")


def answer_of(request_id: str) -> str:
    """Give the run's text: what the model says in each step, and its last."""
    steps = range(steps_of(request_id) + 1)
    return "\n\n".join("".join(words_of(request_id, step)) for step in steps)


def steps_value(one: Asked) -> bytes:
    """Give the record of a request, as an upstream would write it."""
    value = {
        "user_id": one.user_id,
        "session_id": one.session_id,
        "request_id": one.request_id,
        "input": one.request_id,
        "template": TEMPLATE,
    }
    return json.dumps(value).encode()


def plan(requests: int, rng: random.Random) -> tuple[Asked, ...]:
    """Plan runs of a few steps, none with a call of which only a person could tell what became."""
    planned = []
    for number in range(requests):
        session = rng.randrange(max(8, requests // _REQUESTS_PER_SESSION))
        # Of three tools in turn, which begin with the first, the fourth is never called.
        request_id = f"s{number:05}.{_STEPS}.0"
        planned.append(Asked(request_id, f"u{session:04}", "s", answer=answer_of(request_id)))
    return tuple(planned)
