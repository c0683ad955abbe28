"""JSON schemas as a grammar can hold a small model to them: known keywords, and an end to all.

Only the form of arguments comes from here. Whether they are what the tool takes, its own schema
says once they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["form_of", "sample_of"]

STRING_CHARS_MAX: Final = 120
ARRAY_ITEMS_MAX: Final = 8
NUMBER_MAX: Final = 999_999_999
"""A model that repeats itself ends a string, an array and a number all the same."""

REFERENCES_MAX: Final = 3
"""So deep a schema may refer, as a tree's does to itself: a small model would go on for ever."""

# Patterns, formats and what joins or negates schemas are left out: those that a grammar cannot hold
# make the engine pass over all of it. Source: llguidance's docs/json_schema.md.
_PLAIN: Final = (
    "enum",
    "const",
    "minItems",
    "minLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
)
_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_NUMBERS: Final = frozenset({"number", "integer"})
_BELOW: Final = "exclusiveMaximum"
_ABOVE: Final = "exclusiveMinimum"
_LOWER: Final = frozenset({"minimum", _ABOVE})
_UPPER: Final = frozenset({"maximum", _BELOW})
_SAMPLES: Final[Mapping[str, Any]] = {
    "object": {},
    "array": [],
    "string": "text",
    "number": 1,
    "integer": 1,
    "boolean": True,
}


def form_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give the form of a tool's arguments; references in it are gone."""
    return {**(_form(schema, schema, 0) or {}), "type": "object"}


def sample_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give arguments that have the form of a schema: its required ones, by their types."""
    properties = schema.get("properties") or {}
    return {
        name: _sample(properties[name])
        for name in schema.get("required") or ()
        if name in properties
    }


def _sample(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for kind in _types(schema):
        return _SAMPLES.get(kind)
    return "text"


def _form(schema: Any, whole: Mapping[str, Any], depth: int) -> dict[str, Any] | None:
    """Give a schema's form, `None` for one that is too deep in references to end."""
    if not isinstance(schema, Mapping):
        return {}
    if (ref := schema.get("$ref")) is not None:
        if depth == REFERENCES_MAX:
            return None
        return _form(_referred(whole, ref), whole, depth + 1)
    types = _types(schema)
    form = {key: schema[key] for key in _PLAIN if schema.get(key, []) != []}
    if types:
        form["type"] = types
    if isinstance(named := schema.get("properties"), Mapping):
        forms = {name: _form(one, whole, depth) for name, one in named.items()}
        form["properties"] = {name: one for name, one in forms.items() if one is not None}
        required = schema.get("required", ())
        form["required"] = [each for each in required if each in form["properties"]]
        form["additionalProperties"] = False
    elif isinstance(more := schema.get("additionalProperties"), Mapping):
        form["additionalProperties"] = _form(more, whole, depth) or {}
    if isinstance(schema.get("items"), Mapping):
        form["items"] = _form(schema["items"], whole, depth) or {"type": "null"}
    ways = [_form(one, whole, depth) for one in schema.get("anyOf") or schema.get("oneOf") or ()]
    if ending := [each for each in ways if each is not None]:
        form["anyOf"] = ending
    return _bounded(form, schema, types)


def _bounded(form: dict[str, Any], schema: Mapping[str, Any], types: list[str]) -> dict[str, Any]:
    if "string" in types and "enum" not in form and "const" not in form:
        longest = min(schema.get("maxLength", STRING_CHARS_MAX), STRING_CHARS_MAX)
        form["maxLength"] = max(longest, form.get("minLength", 0))
    if not _NUMBERS.isdisjoint(types):
        if _LOWER.isdisjoint(form):
            form["minimum"] = min(-NUMBER_MAX, form.get("maximum", 0), form.get(_BELOW, 0) - 1)
        if _UPPER.isdisjoint(form):
            form["maximum"] = max(NUMBER_MAX, form.get("minimum", 0), form.get(_ABOVE, 0) + 1)
    if "array" in types:
        longest = min(schema.get("maxItems", ARRAY_ITEMS_MAX), ARRAY_ITEMS_MAX)
        form["maxItems"] = max(longest, form.get("minItems", 0))
    return form


def _types(schema: Mapping[str, Any]) -> list[str]:
    told = schema.get("type")
    kinds = told if isinstance(told, list) else [told]
    return [each for each in kinds if each in _TYPES]


def _referred(whole: Mapping[str, Any], ref: object) -> Any:
    """Give what a reference leads to in its document; anything, where it leads nowhere."""
    at: Any = whole
    for part in str(ref).split("/")[1:]:
        at = at.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(at, Mapping) else None
    return at if str(ref).startswith("#") else None
