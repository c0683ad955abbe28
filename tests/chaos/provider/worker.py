"""A worker whose tools fail in every way: `python -m tests.chaos.provider.worker --role lanes`.

All else is the worker as it is deployed. What the tools did is noted in the worker's data folder.
"""

from __future__ import annotations

import sys

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.gateway.commands.worker import parse_roles, work
from millstream.streams.apps.app import AppParts
from millstream.streams.settings import load_settings
from millstream.streams.telemetry.logs import configure_logging
from tests.chaos.provider.tools import odd_tools

ATTEMPT_S = 8.0
"""Time enough for an answer on a machine that is busy, little enough to wait for three times."""

GRACE_S = 0.5

ODD_TOOLS = ("note", "raises", "huge", "groups", "spins", "exits", "interrupts", "cancels")
SLOW_TOOLS = ("blocks", "hangs", "pays")


def templates(
    *, attempt_s: float = ATTEMPT_S, grace_s: float = GRACE_S
) -> tuple[AgentTemplate, ...]:
    """Give the built-in templates, and those with tools that fail.

    `slow_agent` ends an attempt after `attempt_s`, and waits for a thread `grace_s` more.
    """
    return (
        *BUILT_IN_TEMPLATES,
        AgentTemplate(name="odd_agent", kind="react", tools=ODD_TOOLS),
        AgentTemplate(
            name="slow_agent",
            kind="react",
            tools=SLOW_TOOLS,
            attempt_timeout_s=attempt_s,
            tool_grace_s=grace_s,
            tool_threads_max=64,
        ),
    )


def main() -> None:
    """Work until SIGTERM, in the roles that the command line names behind `--role`."""
    settings = load_settings()
    configure_logging(settings)
    roles = parse_roles(sys.argv[sys.argv.index("--role") + 1])
    app = AppParts(templates=templates(), tools=odd_tools(settings.data_dir))
    work(settings, roles, app=app)


if __name__ == "__main__":
    main()
