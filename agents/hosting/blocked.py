"""Code that does not let its event loop turn: how it is found from another thread, and named."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

from millstream.agents.loop.containment import run_at
from millstream.agents.loop.under_way import UnderWay

__all__ = ["Blockage", "Blocked", "frame_of", "outermost", "where_it_stands"]

_OTHERS: Final = tuple(
    str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib")
)
_OURS: Final = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class Blocked:
    """Code that does not let its event loop turn.

    Attributes:
        seconds: For how long, as far as is known.
        template: That of the run whose code it is; `None` where that is not known.
        tool: The tool that it is, or is called by; `None` outside of tools.
        request_id: The run's request; `None` where it is not known.
        where: File, line and function of the innermost code that is neither Python's own nor
            installed, and what that calls.
    """

    seconds: float
    template: str | None
    tool: str | None
    request_id: str | None
    where: str

    def __str__(self) -> str:
        """Say it in words."""
        what = "code of the agent" if self.tool is None else f"the tool {self.tool!r}"
        template = "" if self.template is None else f" of the template {self.template!r}"
        return f"{what}{template} does not let others run, at {self.where}"


class Blockage:
    """Watches one loop: since when it is in one and the same callback.

    `serving` is the code whose frame stands right above a callback of the loop. `since_s` is when
    the callback began, by the monotonic clock; where it is no run's, when it was first seen.
    """

    def __init__(self, serving: CodeType) -> None:
        self._serving = serving
        self._callback: FrameType | None = None
        self.since_s = 0.0

    @property
    def callback(self) -> FrameType | None:
        """The callback's outermost frame."""
        return self._callback

    @property
    def run(self) -> UnderWay | None:
        """The run whose code the callback is."""
        return None if self._callback is None else run_at(self._callback)

    def forget(self) -> None:
        """Take the loop for one that turns."""
        self._callback = None

    def look(self, thread_id: int, now_s: float) -> float:
        """Give for how many seconds the loop is in the callback that it is in now."""
        callback = outermost(frame_of(thread_id), self._serving)
        if callback is not self._callback:
            self._callback, self.since_s = callback, now_s
            if (run := self.run) is not None:
                self.since_s = run.step_at_s
        return 0.0 if callback is None else now_s - self.since_s


def outermost(frame: FrameType | None, serving: CodeType) -> FrameType | None:
    """Give the outermost frame of the callback that a loop's thread is in, `None` between two.

    `frame` is the thread's innermost one; `serving` is the code that runs the loop.
    """
    called: FrameType | None = None
    while frame is not None:
        if frame.f_code is serving:
            return called
        called, frame = frame, frame.f_back
    return None


def frame_of(thread_id: int) -> FrameType | None:
    """Give the innermost frame of a thread, `None` if it has ended."""
    return sys._current_frames().get(thread_id)  # noqa: SLF001  the documented way


def where_it_stands(frame: FrameType | None, serving: CodeType) -> str:
    """Say where a thread stands: the innermost frame that is neither Python's nor installed.

    `serving` is the code that runs its loop, up to which frames are looked at.
    """
    innermost = frame
    while frame is not None and frame.f_code is not serving:
        name = frame.f_code.co_filename
        if not name.startswith("<") and not _is_of_others(name):
            break
        frame = frame.f_back
    else:
        frame = innermost
    if frame is None:
        return "a place that is not known"
    told = _told(frame)
    return told if frame is innermost or innermost is None else f"{told}, in {_told(innermost)}"


def _is_of_others(name: str) -> bool:
    path = str(Path(name).resolve())
    return path.startswith((*_OTHERS, _OURS))


def _told(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
