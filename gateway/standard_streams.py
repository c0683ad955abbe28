"""Standard input, output and error, also where whoever started us has closed them.

The next file that such a process opens takes the free number: a connection to Kafka could become
standard output. And Python gives no stream for it, so that the first question to it fails.
"""

import os
import sys

# Nothing else is imported: this comes before all else.

__all__ = ["leave_unwritten", "open_closed_streams"]


def open_closed_streams() -> None:
    """Open each that is closed on the null device: nothing is read there, and nothing is kept."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given: those below are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def leave_unwritten() -> None:
    """Let go of what a full disk has not taken: Python tries again at exit, and ends with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
