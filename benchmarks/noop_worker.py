"""A lanes worker whose agent does nothing: `python -m benchmarks.noop_worker`.

All else is the worker as it is deployed. The agent gives a fixed answer and a fixed usage, and
writes no tokens, so what is measured is the engine around it.
"""

from __future__ import annotations

import uvloop

from agents.executor import RunOutcome, wall_clock_ms
from agents.factory import RunPlan
from gateway.commands.worker import work
from schemas.base import Usage
from schemas.events import AgentResult, ResolvedRequest
from streams.lane_parts import RunAgent
from streams.logs import configure_logging
from streams.settings import load_settings

_ANSWER = "done"
_USAGE = Usage(input_tokens=100, output_tokens=50)


async def do_nothing(
    request: ResolvedRequest, plan: RunPlan, *, attempt: int, **_: object
) -> RunOutcome:
    """Answer at once. Its usage is priced as any other."""
    now_ms = wall_clock_ms()
    result = AgentResult(
        tenant=request.tenant,
        user_id=request.user_id,
        request_id=request.request_id,
        session_id=request.session_id,
        at_ms=now_ms,
        status="completed",
        output=_ANSWER,
        template=plan.template.name,
        template_version=plan.template.version,
        model=plan.model,
        attempt=attempt,
        usage=_USAGE,
        source=request.source,
        accepted_at_ms=request.at_ms,
        started_at_ms=now_ms,
        metadata=request.metadata,
    )
    return RunOutcome(result, checkpoint=None)


def main() -> None:
    """Work until SIGTERM."""
    settings = load_settings()
    configure_logging(settings)
    run_agent: RunAgent = do_nothing
    uvloop.run(work(settings, frozenset({"lanes"}), run_agent=run_agent))


if __name__ == "__main__":
    main()
