"""A worker with an agent of many steps: `python -m benchmarks.programs.steps_worker FOLDER [off]`.

Its model and its tool are those of `step_agent.py`, which says what they are asked for. FOLDER
gets what `Watch` writes, and `commits`, the milliseconds that each record of a journal took.
With `off` no run has a journal. All else is the worker as it is deployed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.programs.step_model import StepModel, step_tool
from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.models.resolve import keep_traces_local
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry, ToolRules
from millstream.gateway.commands.worker import work
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.ports import CommitStep
from millstream.schemas.runs.reservations import NextCall
from millstream.streams.apps.app import AppParts
from millstream.streams.settings import load_settings
from millstream.streams.telemetry.logs import configure_logging

CALLS_MAX = 600
ATTEMPT_S = 600.0


class Watched:
    """Runs agents, and writes down how long each record of a journal took."""

    def __init__(self, executor: AgentExecutor, folder: Path, *, journals: bool) -> None:
        self._executor = executor
        self._folder = folder
        self._journals = journals

    async def run(
        self, *given: Any, commit_step: CommitStep | None = None, **more: Any
    ) -> RunOutcome:
        """Run an attempt."""
        took_ms: list[float] = []

        async def timed(fact: JournalStep, *, next_call: NextCall | None = None) -> None:
            assert commit_step is not None  # noqa: S101  else it is not handed on
            began_s = time.perf_counter()
            await commit_step(fact, next_call=next_call)
            took_ms.append((time.perf_counter() - began_s) * 1000)

        commit = timed if self._journals and commit_step is not None else None
        outcome = await self._executor.run(*given, commit_step=commit, **more)
        with (self._folder / "commits").open("a", encoding="ascii") as lines:
            lines.writelines(f"{took:.4f}\n" for took in took_ms)
        return outcome


def main() -> None:
    """Work until SIGTERM."""
    folder, journals = Path(sys.argv[1]), "off" not in sys.argv[2:]
    settings = load_settings()
    configure_logging(settings)
    keep_traces_local()
    tools = ToolRegistry([])
    tools.register(step_tool(folder, "work"), ToolRules("read_only"))
    tools.register(step_tool(folder, "put"), ToolRules("idempotent"))
    template = AgentTemplate(
        name="chat_agent",
        kind="react",
        tools=("work", "put"),
        model_calls_max=CALLS_MAX,
        attempt_timeout_s=ATTEMPT_S,
    )
    factory = AgentFactory(
        default_model="scripted",
        templates=(template,),
        tools=tools,
        resolve=lambda _name, **_: StepModel(folder=folder),
    )
    watched = Watched(AgentExecutor(factory), folder, journals=journals)
    app = AppParts(templates=(template,), tools=tools)
    work(settings, frozenset({"lanes"}), app=app, run_agent=watched.run)


if __name__ == "__main__":
    main()
