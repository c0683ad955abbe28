"""What is right: which fields a case may name, and how they are compared with what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from millstream.schemas.events import AgentResult

__all__ = ["FIELDS", "KEYS", "compare"]

FIELDS: Final = frozenset(
    {
        *AgentResult.model_fields,
        *("reason_code", "retry_after_s", "attempts", "calls", "estimated", "checkpoints", "costs"),
        *("second_call_at_s", "body", "tool_runs", "pieces_taken_max"),
    }
)
"""What is told of a request: the fields of its result, and what its other records say."""

_HOLDS: Final[Mapping[str, tuple[str, Callable[[Any, Any], bool]]]] = MappingProxyType(
    {
        "body_must_have": ("body", lambda wanted, body: wanted.items() <= body.items()),
        "body_must_not_have": ("body", lambda wanted, body: not set(wanted) & body.keys()),
        # The clock is not the test's alone: what is computed takes its time.
        "second_call_at_s": ("second_call_at_s", lambda wanted, at_s: wanted <= at_s < wanted + 2),
        "second_call_not_before_s": ("second_call_at_s", lambda wanted, at_s: at_s >= wanted),
        "cost_micros_max": ("cost_micros", lambda wanted, micros: micros <= wanted),
        "pieces_taken_max": ("pieces_taken_max", lambda wanted, taken: taken <= wanted),
        "usage": ("usage", lambda wanted, usage: wanted.items() <= usage.items()),
        "reason_says": ("reason", lambda wanted, reason: wanted in (reason or {})["message"]),
        "reason": ("reason", lambda wanted, reason: wanted.items() <= (reason or {}).items()),
    }
)
_FOR_PEOPLE: Final = frozenset({"note", "tells", "or"})
KEYS: Final = FIELDS | _HOLDS.keys() | _FOR_PEOPLE | {"not"}
"""What a case may say of a request."""


def compare(right: Mapping[str, Any], told: Mapping[str, Any], where: str) -> None:
    """Raise `AssertionError` with each field that is not as wanted, and why the run failed."""
    differ = list(_differences(right, told))
    if differ:
        if told["reason"] is not None:
            differ.append(f"its reason: {told['reason']}")
        raise AssertionError("\n  ".join([f"{where} did not come out right:", *differ]))


def _differences(right: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[str]:
    for key, wanted in right.items():
        if key == "not":
            for name, unwanted in wanted.items():
                if told[name] == unwanted:
                    yield f"{name}: wanted anything but what it is, {unwanted!r}"
        elif key in _HOLDS:
            name, holds = _HOLDS[key]
            # What there was no call for is not there.
            if (told[name] is None and name != "reason") or not holds(wanted, told[name]):
                yield f"{key}: wanted {wanted!r}, got {told[name]!r}"
        elif key not in _FOR_PEOPLE and told[key] != wanted:
            yield f"{key}: wanted {wanted!r}, got {told[key]!r}"
