"""Runs the command line: `python -m millstream.gateway`, or the command `millstream` of a wheel."""

import os
import signal
import sys

# Nothing else is imported before signals are heeded: it takes a second and more.


def _end_with_nothing_begun(_number: int, _frame: object) -> None:
    # No exception: one that is raised in the midst of an import may be swallowed there.
    os._exit(0)


def _is_worker(arguments: list[str]) -> bool:
    return next((one for one in arguments if not one.startswith("-")), None) == "worker"


def main() -> None:
    """Run the command line and exit."""
    if _is_worker(sys.argv[1:]):
        # Until it handles them itself: to be told to end is how it is meant to end.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _end_with_nothing_begun)
    from millstream.gateway.standard_streams import (  # noqa: PLC0415
        leave_unwritten,
        open_closed_streams,
    )

    open_closed_streams()
    try:
        # Within the try: an impatient Ctrl-C may come while packages are imported.
        from millstream.gateway.cli import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        leave_unwritten()


if __name__ == "__main__":
    main()
