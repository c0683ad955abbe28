"""What a template may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate

OBJECT = {"type": "object"}


def test_three_templates_are_built_in() -> None:
    names = [template.name for template in BUILT_IN_TEMPLATES]
    assert names == ["chat_agent", "react_agent", "structured_agent"]


def test_a_template_goes_through_json_unchanged() -> None:
    for template in BUILT_IN_TEMPLATES:
        assert AgentTemplate.model_validate_json(template.model_dump_json()) == template


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"output_tokens_max": 0}, "output_tokens_max"),
        ({"attempt_timeout_s": float("inf")}, "attempt_timeout_s"),
        ({"output_token_max": 5}, "output_token_max"),
        ({"kind": "structured"}, "response_format"),
        ({"response_format": OBJECT}, "response_format"),
        ({"kind": "structured", "response_format": {"type": "array"}}, "schema of an object"),
        ({"kind": "structured", "response_format": {"type": 5}}, "not a JSON schema"),
        ({"kind": "react"}, "tools"),
        ({"tools": ["calculator"]}, "tools"),
        ({"name": "line\nbreak"}, "name"),
    ],
)
def test_a_wrong_template_is_refused_by_the_fields_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        AgentTemplate.model_validate({"name": "own", **fields})


def test_only_an_agent_with_tools_calls_its_model_again() -> None:
    calls = {template.name: template.run_model_calls_max for template in BUILT_IN_TEMPLATES}
    assert calls == {"chat_agent": 1, "react_agent": 8, "structured_agent": 1}
