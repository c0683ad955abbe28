"""A worker whose models may write 512 tokens: `python -m benchmarks.programs.long_answers_worker`.

All else is the worker as it is deployed.
"""

from __future__ import annotations

from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.gateway.commands.worker import work
from millstream.streams.apps.app import AppParts
from millstream.streams.settings import load_settings
from millstream.streams.telemetry.logs import configure_logging

TOKENS_MAX = 512


def main() -> None:
    """Work until SIGTERM."""
    settings = load_settings()
    configure_logging(settings)
    templates = tuple(
        each.model_copy(update={"output_tokens_max": TOKENS_MAX}) for each in BUILT_IN_TEMPLATES
    )
    work(settings, frozenset({"lanes"}), app=AppParts(templates=templates))


if __name__ == "__main__":
    main()
