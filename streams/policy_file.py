"""The policy as a file that the settings name."""

from __future__ import annotations

from pathlib import Path

from millstream.middleware.policy import Policy
from millstream.schemas.errors import Misconfigured
from millstream.streams.settings import Settings


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
