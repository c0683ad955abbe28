"""A template as a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import Misconfigured

__all__ = ["load_template"]


def load_template(path: Path) -> AgentTemplate:
    """Read a template. Raises `Misconfigured`, a line for each mistake, with file and field."""
    try:
        return AgentTemplate.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Misconfigured(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise Misconfigured("\n".join(lines)) from error
