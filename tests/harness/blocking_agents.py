"""Agents whose code does not let others run, and a worker of them.

`python -m tests.harness.blocking_agents worker --role lanes` works as `millstream worker` does.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

from langchain_core.tools import tool

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, ToolRules, built_in_tools
from millstream.gateway.commands.worker import parse_roles, work
from millstream.streams.apps.app import AppParts
from millstream.streams.settings import load_settings
from millstream.streams.telemetry.logs import configure_logging

__all__ = ["TOOLS", "blocking_factory"]

TOOLS = ("sleep", "match", "exits", "waits", "refund")


@tool
async def sleep(seconds: float) -> str:
    """Sleep as a program without an event loop does."""
    time.sleep(seconds)  # noqa: ASYNC251, TID251  which is the point
    return f"slept {seconds:g} s"


@tool
async def match(letters: int) -> str:
    """Match what takes twice as long for each letter more."""
    return str(re.match(r"(a+)+$", "a" * letters + "b"))


@tool
async def exits(seconds: float) -> str:
    """Have the event loop call `sys.exit`."""
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(seconds)  # noqa: TID251  a tool that takes time
    return "it did not exit"


@tool
async def waits(seconds: float) -> str:
    """Wait as it should be done."""
    await asyncio.sleep(seconds)  # noqa: TID251  a tool that takes time
    return f"waited {seconds:g} s"


@tool
async def refund(seconds: float) -> str:
    """Do what stays done, and say so later."""
    await asyncio.sleep(seconds)  # noqa: TID251  a tool that takes time
    return "refunded"


def blocking_factory(**of_template: object) -> AgentFactory:
    """Give a factory whose template `blocks` has these tools; only `refund` has effects."""
    tools = ToolRegistry(built_in_tools())
    for each in (sleep, match, exits, waits):
        tools.register(each, ToolRules("read_only"))
    tools.register(refund)
    fields = {
        "name": "blocks",
        "kind": "react",
        "tools": TOOLS,
        "retry": RetryPolicy(backoff_first_s=0.01, jitter=0),
        **of_template,
    }
    template = AgentTemplate.model_validate(fields)
    return AgentFactory(
        default_model="scripted", tools=tools, templates=(*BUILT_IN_TEMPLATES, template)
    )


def main() -> None:
    """Work until told to stop."""
    settings = load_settings()
    configure_logging(settings)
    factory = blocking_factory(attempt_timeout_s=14)
    app = AppParts(templates=factory.list(), tools=factory.tools)
    work(settings, parse_roles(sys.argv[-1]), app=app)


if __name__ == "__main__":
    main()
