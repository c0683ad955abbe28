"""The policy as a file that the settings name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from millstream.middleware.policy import Policy
from millstream.schemas.errors import Misconfigured
from millstream.streams.settings import Settings

if TYPE_CHECKING:
    from millstream.agents.templates.template import AgentTemplate

_log = structlog.get_logger(__name__)


def load_policy(settings: Settings, of_app: Path | None = None) -> Policy:
    """Read the policy file that the settings name, or else that of the app.

    Raises `Misconfigured` that names the fault.
    """
    path = settings.policy_file or of_app
    if path is None:
        return Policy()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"{'MILLSTREAM_POLICY_FILE: ' if path == settings.policy_file else ''}"
            f"the policy {path} cannot be read: {error}"
        ) from error
    return Policy.from_yaml(text, name=str(path))


def tell_of_templates_for_nobody(policy: Policy, templates: Iterable[AgentTemplate]) -> None:
    """Say in the log which templates ask for permissions that no role of the policy grants."""
    for template in templates:
        missing = policy.granted_to_nobody(template.permissions)
        if missing:
            _log.warning(
                "nobody may use a template: no role in the policy grants what it asks for; name it "
                "in the `permissions` of a role",
                template=template.name,
                permissions=missing,
            )
