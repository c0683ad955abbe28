"""How long a request has been under way: its attempts, and the waits between them.

Not the time in which it waits in line or is paused. While it is counted, its start is what is
written down: so the next owner counts on from there, also the time in which there was none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stopwatch:
    """Counts milliseconds of the wall clock.

    `since_ms` is when it would have been started had it never stood still, 0 while it stands still;
    then `elapsed_ms` is what it counted.
    """

    elapsed_ms: int = 0
    since_ms: int = 0

    def start(self, at_ms: int) -> None:
        """Count on, if it stands still."""
        if not self.since_ms:
            self.since_ms = at_ms - self.elapsed_ms

    def stop(self, at_ms: int) -> None:
        """Stand still, if it counts; `at_ms` may lie ahead, at the end of a wait that counts."""
        if self.since_ms:
            self.elapsed_ms = max(0, at_ms - self.since_ms)
            self.since_ms = 0
