"""A worker whose tools ask the server of steps: `python -m tests.chaos.steps.worker --role lanes`.

All else is the worker as it is deployed. The server is where `OPENAI_BASE_URL` says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from langchain_core.tools import StructuredTool
from langgraph.prebuilt import ToolRuntime

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import NOT_MADE, Caller, ToolRegistry, ToolRules, built_in_tools
from millstream.gateway.commands.worker import parse_roles, work
from millstream.streams.apps.app import AppParts
from millstream.streams.settings import load_settings
from millstream.streams.telemetry.logs import configure_logging
from tests.chaos.steps.script import TEMPLATE, TOOLS

STEPS_MAX = 12
TOOL_TIMEOUT_S = 90.0
"""A call may be held for as long as all others take to be."""
EFFECTS_WAIT_S = 2.0
"""How long the next owner lets a call be that its predecessor may have under way: it is killed."""


def _tool(name: str) -> StructuredTool:
    async def call(step: int, runtime: ToolRuntime[Caller]) -> str:
        who = runtime.context
        return await _ask(f"tools/{name}", who, step=step, call_id=runtime.tool_call_id) or ""

    return StructuredTool.from_function(coroutine=call, name=name, description=f"It can {name}.")


def _became(name: str) -> Callable[[Caller, dict[str, Any]], Awaitable[Any]]:
    async def became(caller: Caller, args: dict[str, Any]) -> Any:
        said = await _ask(f"became/{name}", caller, **args)
        return NOT_MADE if said is None else said

    return became


async def _ask(path: str, caller: Caller, **told: Any) -> str | None:
    environment = os.environ  # noqa: TID251  as the model's client has it
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{environment['OPENAI_BASE_URL']}/{path}",
            json={"request_id": caller.request_id, "key": caller.idempotency_key, **told},
            headers={"Authorization": f"Bearer {environment['OPENAI_API_KEY']}"},
            raise_for_status=True,
        ) as answer,
    ):
        said: str | None = (await answer.json())["said"]
        return said


def _parts() -> AppParts:
    registry = ToolRegistry(built_in_tools())
    for name, effect in TOOLS.items():
        asks = _became(name) if effect == "reconcile" else None
        registry.register(_tool(name), ToolRules(effect, reconcile=asks))
    template = AgentTemplate(
        name=TEMPLATE,
        kind="react",
        tools=tuple(TOOLS),
        model_calls_max=STEPS_MAX,
        tool_timeout_s=TOOL_TIMEOUT_S,
        effects_wait_s=EFFECTS_WAIT_S,
    )
    return AppParts(templates=(*BUILT_IN_TEMPLATES, template), tools=registry)


def main() -> None:
    """Work until SIGTERM, in the roles that the command line names behind `--role`."""
    settings = load_settings()
    configure_logging(settings)
    roles = parse_roles(sys.argv[sys.argv.index("--role") + 1])
    work(settings, roles, app=_parts())


if __name__ == "__main__":
    main()
