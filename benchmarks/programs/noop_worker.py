"""A lanes worker whose agent does nothing: `python -m benchmarks.programs.noop_worker [SECONDS]`.

All else is the worker as it is deployed. The agent gives a fixed answer and a fixed usage, and
writes no tokens, so what is measured is the engine around it.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import RunAgent, wall_clock_ms
from millstream.agents.factory import RunPlan
from millstream.gateway.commands.worker import work
from millstream.schemas.base import Usage
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.reasons import result_of
from millstream.streams.settings import load_settings
from millstream.streams.telemetry.logs import configure_logging

_ANSWER = "done"
_USAGE = Usage(input_tokens=100, output_tokens=50)


async def do_nothing(
    request: ResolvedRequest, plan: RunPlan, *, attempt: int, **_: object
) -> RunOutcome:
    """Answer at once. Its usage is priced as any other."""
    now_ms = wall_clock_ms()
    result = result_of(
        request,
        at_ms=now_ms,
        status="completed",
        output=_ANSWER,
        template_version=plan.template.version,
        model=plan.model,
        attempt=attempt,
        usage=_USAGE,
        started_at_ms=now_ms,
    )
    return RunOutcome(result, checkpoint=None)


async def take_time(
    takes_s: float, request: ResolvedRequest, plan: RunPlan, *, attempt: int, **_: object
) -> RunOutcome:
    """Wait, and answer then."""
    await asyncio.sleep(takes_s)
    return await do_nothing(request, plan, attempt=attempt)


def main() -> None:
    """Work until SIGTERM; a run takes as many seconds as the command line says, else none."""
    settings = load_settings()
    configure_logging(settings)
    takes_s = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    run_agent: RunAgent = partial(take_time, takes_s) if takes_s else do_nothing
    work(settings, frozenset({"lanes"}), run_agent=run_agent)


if __name__ == "__main__":
    main()
