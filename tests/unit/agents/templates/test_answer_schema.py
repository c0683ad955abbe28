"""A schema of answers must be one of an object."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.agents.templates.answer_schema import check_schema


@pytest.mark.parametrize("schema", [{"type": "string"}, {}, {"type": "object", "required": 5}])
def test_a_schema_must_be_one_of_an_object(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema"):
        check_schema(schema)
