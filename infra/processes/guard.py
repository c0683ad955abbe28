"""Becomes another program that cannot outlive the process that started it (Linux).

Run as a script: `python -I -S guard.py PARENT_PID PROGRAM ARGUMENT…`. Asking the kernel from a
process of its own, instead of between fork and exec of the parent, stays safe when the parent has
threads; the request survives exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask to be killed when the parent dies, then exec the program; exits 1 if it died already."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    # SIGKILL: a service that hangs in its own clean-up would be left behind by anything milder,
    # and both services are built to find their data after a crash.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(program, sys.argv[2:])  # noqa: S606  the very point: no shell, same process


if __name__ == "__main__":
    main()
