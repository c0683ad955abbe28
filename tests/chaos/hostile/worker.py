"""A worker with a template of long answers: `python -m tests.chaos.hostile.worker --role lanes`.

All else is the worker as it is deployed.
"""

from __future__ import annotations

import sys

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.gateway.commands.worker import parse_roles, work
from millstream.streams.apps.app import AppParts
from millstream.streams.settings import load_settings
from millstream.streams.telemetry.logs import configure_logging
from tests.chaos.hostile.server import LONG

OUTPUT_TOKENS_MAX = 32_768


def main() -> None:
    """Work until SIGTERM, in the roles that the command line names behind `--role`."""
    settings = load_settings()
    configure_logging(settings)
    roles = parse_roles(sys.argv[sys.argv.index("--role") + 1])
    template = AgentTemplate(name=LONG, kind="chat", output_tokens_max=OUTPUT_TOKENS_MAX)
    work(settings, roles, app=AppParts(templates=(*BUILT_IN_TEMPLATES, template)))


if __name__ == "__main__":
    main()
