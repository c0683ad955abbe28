"""A worker that is gone where it parses one request: `python -m tests.harness.mortal_worker`.

All else is the worker as it is deployed. Nothing catches this, as a fault in a parser's own code.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from millstream.gateway.__main__ import main
from millstream.schemas.events import AgentRequest

KILLS = "kills its reader"

_read = AgentRequest.model_validate_json


def read_or_die(value: bytes, **more: Any) -> AgentRequest:
    """Read a request, unless it is the one that kills."""
    if KILLS.encode() in value:
        os.kill(os.getpid(), signal.SIGKILL)
    return _read(value, **more)


if __name__ == "__main__":
    AgentRequest.model_validate_json = read_or_die  # type: ignore[assignment, method-assign]
    sys.argv.insert(1, "worker")
    main()
