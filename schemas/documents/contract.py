"""The contract in JSON Schema (draft 2020-12): one document per event, generated from the models.

A document says what a record may hold. `required` is what its writer must give. A property that
does not admit null is in every record that Millstream writes; one that admits null is left out
when it has no value. `compatibility.py` compares these documents with those last released.
"""

from __future__ import annotations

import json
from typing import Any

from millstream.schemas.any_event import EVENT_TYPES
from millstream.schemas.base import Event

Json = dict[str, Any]
"""A JSON object."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def event_name(event: type[Event]) -> str:
    """Give the event's name on the wire, the value of its `type`."""
    return str(event.model_fields["type"].default)


def event_schema(event: type[Event]) -> Json:
    """Give the JSON Schema of one event's records."""
    schema = event.model_json_schema(mode="validation")
    version = event.model_fields["schema_version"].default
    return {
        "$schema": DIALECT,
        "$id": f"urn:millstream:event:{event_name(event)}:{version}",
        **schema,
    }


def event_schemas(events: tuple[type[Event], ...] = EVENT_TYPES) -> dict[str, Json]:
    """Give every event's JSON Schema by the event's name."""
    return {event_name(event): event_schema(event) for event in events}


def always_written(schema: Json) -> frozenset[str]:
    """Give the properties that are in every record: those that do not admit null.

    Records are written without their nulls, and with all their defaults.
    """
    return frozenset(
        name for name, value in schema.get("properties", {}).items() if not admits_null(value)
    )


def admits_null(schema: Json) -> bool:
    """Tell whether a property's schema admits null, and so its absence."""
    return any(choice.get("type") == "null" for choice in schema.get("anyOf", (schema,)))


def to_text(document: Json) -> str:
    """Give a document as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
