"""How long ago the person pressed enter.

`make demo` begins before Python does, and with its set-up; so its time to the first token counts
from the start of the process `make`, which is our parent. Without one it counts from our own
start. Linux tells when a process started, in ticks since boot (proc(5), `stat`, field 22).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["StartClock"]

_START_FIELD = 22 - 3  # of what follows the name, the first of which is field 3


class StartClock:
    """Seconds since the command was given, whoever gave it."""

    def __init__(self, pid: int | None = None) -> None:
        """`pid` is the process whose start counts; none given: `make`'s, else our own."""
        self._since_boot_s = _started_s(_commander() if pid is None else pid)

    def seconds(self) -> float:
        """Seconds from that start to now."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self._since_boot_s


def _commander() -> int:
    parent = os.getppid()
    try:
        name = Path(f"/proc/{parent}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return os.getpid()
    return parent if name in {"make", "gmake"} else os.getpid()


def _started_s(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # The name stands in parentheses and may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    return int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
