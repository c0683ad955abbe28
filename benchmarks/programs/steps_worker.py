"""A worker with an agent of many steps: `python -m benchmarks.programs.steps_worker FOLDER [off]`.

Its model is asked for `steps: 5 of 500` and calls a tool five times, one after the other, which
answers with 500 bytes of the documentation; then it is done. Neither takes time. Asked for `steps:
500 of 500, held at 499`, the tool's call of step 499 takes for ever; with `, put` behind, the tool
is one with an effect. FOLDER gets `held`, a line for each such call (its step and when it was made,
in nanoseconds since the epoch), and `commits`, the milliseconds that each record of a journal took.
With `off` no run has a journal. All else is the worker as it is deployed.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool

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
_ASKED = re.compile(r"steps: (\d+) of (\d+)(?:, held at (\d+))?(, put)?")
_PAGES = Path(__file__).parents[2] / "docs" / "how-to"


class StepModel(BaseChatModel):
    """Calls the tool as often as it is asked to."""

    @property
    def _llm_type(self) -> str:
        return "steps"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Take any tools."""
        del tools
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        (*asked, put), made = _asked(messages)
        steps, size, held = (int(one) if one else -1 for one in asked)
        said = AIMessage("done", usage_metadata=_USED)
        if made < steps:
            args = {"step": made, "size": size, "is_held": made == held}
            name = "put" if put else "work"
            calls = [{"name": name, "args": args, "id": f"call-{made}", "type": "tool_call"}]
            said = AIMessage("", tool_calls=calls, usage_metadata=_USED)
        return ChatResult(generations=[ChatGeneration(message=said)])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


_USED: Any = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}


def _asked(messages: Sequence[BaseMessage]) -> tuple[tuple[str, ...], int]:
    made = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            found = _ASKED.match(message.text)
            return ("0", "0", "", "") if found is None else found.groups(), made
        made += isinstance(message, ToolMessage)
    return ("0", "0", "", ""), made


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


def _tool(folder: Path, name: str) -> StructuredTool:
    words = "".join(page.read_text("utf-8") for page in sorted(_PAGES.glob("*.md")))

    async def do(step: int, size: int, is_held: bool) -> str:  # noqa: FBT001  the model says so
        """Do a step."""
        if is_held:
            with (folder / "held").open("a", encoding="ascii") as lines:
                lines.write(f"{step} {time.time_ns()}\n")
            await asyncio.Event().wait()
        begins = step * size % (len(words) - size)
        return words[begins : begins + size]

    return StructuredTool.from_function(coroutine=do, name=name)


def main() -> None:
    """Work until SIGTERM."""
    folder, journals = Path(sys.argv[1]), "off" not in sys.argv[2:]
    settings = load_settings()
    configure_logging(settings)
    keep_traces_local()
    tools = ToolRegistry([])
    tools.register(_tool(folder, "work"), ToolRules("read_only"))
    tools.register(_tool(folder, "put"), ToolRules("idempotent"))
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
        resolve=lambda _name, **_: StepModel(),
    )
    watched = Watched(AgentExecutor(factory), folder, journals=journals)
    app = AppParts(templates=(template,), tools=tools)
    work(settings, frozenset({"lanes"}), app=app, run_agent=watched.run)


if __name__ == "__main__":
    main()
