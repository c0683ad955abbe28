"""The time since the person pressed enter."""

from __future__ import annotations

import subprocess
import sys
import time

from millstream.gateway.demo.clock import StartClock


def test_it_counts_from_the_start_of_a_process() -> None:
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        clock = StartClock(process.pid)
        passed = time.monotonic() - began
        process.kill()
    # A tick of the kernel is 10 ms.
    assert -0.1 <= passed - clock.seconds() <= 5


def test_without_make_it_counts_from_our_own_start() -> None:
    assert StartClock().seconds() > 0
