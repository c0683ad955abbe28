"""A lanes worker whose agent does nothing: `python -m benchmarks.programs.noop_worker [S [BYTES]]`.

All else is the worker as it is deployed. The agent gives a fixed answer and a fixed usage, and
writes no tokens, so what is measured is the engine around it. With S a run takes as many seconds;
with BYTES it leaves its session a state of as many bytes, so that the session has a checkpoint.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from dataclasses import replace
from functools import partial

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import RunAgent, wall_clock_ms
from millstream.agents.factory import RunPlan
from millstream.gateway.commands.worker import work
from millstream.schemas.base import Usage
from millstream.schemas.events import CheckpointSaved, ResolvedRequest
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
    takes_s: float,
    state: str,
    request: ResolvedRequest,
    plan: RunPlan,
    *,
    attempt: int,
    **_: object,
) -> RunOutcome:
    """Wait, and answer then; leave the session this state, if there is one."""
    if takes_s:
        await asyncio.sleep(takes_s)
    outcome = await do_nothing(request, plan, attempt=attempt)
    return replace(outcome, checkpoint=_checkpoint(request, state)) if state else outcome


def _checkpoint(request: ResolvedRequest, state: str) -> CheckpointSaved:
    return CheckpointSaved(
        tenant=request.tenant,
        user_id=request.user_id,
        request_id=request.request_id,
        session_id=request.session_id,
        at_ms=wall_clock_ms(),
        checkpoint_id=f"checkpoint-of-{request.request_id}",
        data=state,
    )


def main() -> None:
    """Work until SIGTERM; the command line says what a run takes and leaves, else nothing."""
    settings = load_settings()
    configure_logging(settings)
    given = dict(enumerate(sys.argv))
    takes_s, state_bytes = float(given.get(1, 0)), int(given.get(2, 0))
    # Nobody reads it: the agent does nothing.
    state = base64.b64encode(b"." * state_bytes).decode("ascii")
    run_agent: RunAgent = partial(take_time, takes_s, state) if takes_s or state else do_nothing
    work(settings, frozenset({"lanes"}), run_agent=run_agent)


if __name__ == "__main__":
    main()
