"""Runs the command line: `python -m gateway`."""

import sys

from gateway.exits import ExitCode

if __name__ == "__main__":
    try:
        # Within the try: an impatient Ctrl-C may come while packages are imported.
        from gateway.cli import main

        main()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
