from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from millstream.schemas.any_event import EVENT_TYPES
from millstream.schemas.base import Event
from millstream.schemas.documents.contract import (
    always_written,
    event_name,
    event_schema,
    event_schemas,
)
from millstream.schemas.events import AgentRequest, AgentResult


@pytest.mark.parametrize("event", EVENT_TYPES, ids=event_name)
def test_every_schema_is_valid_json_schema(event: type[Event]) -> None:
    Draft202012Validator.check_schema(event_schema(event))


def test_every_event_has_a_schema_under_its_own_name() -> None:
    assert len(event_schemas()) == len(EVENT_TYPES)


@pytest.mark.parametrize("event", EVENT_TYPES, ids=event_name)
def test_every_event_says_in_one_line_what_it_is(event: type[Event]) -> None:
    assert event.title
    assert "\n" not in event.title


def test_the_bare_minimum_of_a_request_is_valid() -> None:
    Draft202012Validator(event_schema(AgentRequest)).validate({"user_id": "ada", "input": "hi"})


@pytest.mark.parametrize("value", [{}, {"user_id": "ada"}, {"user_id": "", "input": "x"}, [], 7])
def test_what_the_model_refuses_the_schema_refuses(value: Any) -> None:
    assert not Draft202012Validator(event_schema(AgentRequest)).is_valid(value)


def test_what_is_written_is_valid_and_holds_all_that_is_always_written() -> None:
    result = AgentResult.model_validate(
        {
            "user_id": "ada",
            "request_id": "r",
            "session_id": "s",
            "status": "completed",
            "source": {"topic": "t", "partition": 0, "offset": 0},
            "accepted_at_ms": 1,
        }
    )
    written = json.loads(result.model_dump_json(exclude_none=True))
    schema = event_schema(AgentResult)
    Draft202012Validator(schema).validate(written)
    assert set(written) == always_written(schema)
