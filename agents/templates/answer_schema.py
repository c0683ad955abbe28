"""The schema of an agent's structured answers: whether it is one, told without LangChain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema

__all__ = ["check_schema"]


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `ValueError`, saying why, unless this is the JSON schema of an object."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        message = f"not a JSON schema: {error.message}"
        raise ValueError(message) from error
    if schema.get("type") != "object":
        message = "must be the schema of an object"
        raise ValueError(message)
