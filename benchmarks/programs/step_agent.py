"""What the agent of many steps says and does, in Millstream's worker as in its peers.

The model is asked for `steps: 5 of 500` and calls a tool five times, one after the other, which
answers with 500 characters of the documentation; then it is done. Neither takes time. Asked for
`steps: 100 of 2000, held at 50`, the tool's call of step 50 takes for ever; with `, put` behind,
the tool is one with an effect. Where a step is to be held, each call is told to `Watch`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Asked", "Watch", "arguments", "asked", "part", "repeated", "text_bytes", "words"]

_ASKED = re.compile(r"steps: (\d+) of (\d+)(?:, held at (\d+))?(, put)?")
_PAGES = Path(__file__).parents[2] / "docs" / "how-to"


class Asked(NamedTuple):
    """What is asked for: how many steps, of how many characters, which is held, -1 for none."""

    steps: int = 0
    size: int = 0
    held: int = -1
    put: bool = False


def asked(text: str) -> Asked:
    """Read what is asked for; what is not understood asks for no steps."""
    found = _ASKED.match(text)
    if found is None:
        return Asked()
    steps, size, held, put = found.groups()
    return Asked(int(steps), int(size), int(held or -1), bool(put))


def arguments(wanted: Asked, step: int) -> dict[str, int]:
    """Give with what the model calls the tool in a step."""
    return {"step": step, "size": wanted.size, "held": wanted.held}


def words() -> str:
    """Give the text that tools answer with, part by part."""
    return "".join(page.read_text("utf-8") for page in sorted(_PAGES.glob("*.md")))


def part(text: str, step: int, size: int) -> str:
    """Give a step's part of the text, of `size` characters."""
    begins = step * size % (len(text) - size)
    return text[begins : begins + size]


def text_bytes(wanted: Asked) -> int:
    """Give the bytes of what a run's messages say, and of the arguments that the model gives."""
    text = words()
    return sum(
        len(part(text, step, wanted.size).encode()) + len(str(arguments(wanted, step)))
        for step in range(wanted.steps)
    )


class Watch:
    """Writes down which calls of a held run were made, and holds its step.

    In `folder`, `held` has a line for each held call (its step, and when it was made, in
    nanoseconds since the epoch), `calls` one for each call of the model or the tool.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def called(self, kind: str, step: int) -> None:
        """Note a call."""
        with (self._folder / "calls").open("a", encoding="ascii") as lines:
            lines.write(f"{kind} {step}\n")

    async def tool_called(self, step: int, held: int) -> None:
        """Note a call of the tool if a step is to be held; return never if it is this one."""
        if held >= 0:
            self.called("tool", step)
        if step == held:
            with (self._folder / "held").open("a", encoding="ascii") as lines:
                lines.write(f"{step} {time.time_ns()}\n")
            await asyncio.Event().wait()


def repeated(calls: Sequence[str]) -> list[str]:
    """Give which of the calls were made more than once."""
    return sorted({call for call in calls if calls.count(call) > 1})
