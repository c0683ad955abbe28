"""A record as JSON tells what its event has, for every type of event, letter by letter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as such
from hypothesis import strategies as st
from pydantic import ValidationError

from millstream.gateway.console.cleaning import in_line
from millstream.gateway.console.rendering import entry_json
from millstream.schemas.any_event import EVENT_TYPES
from millstream.schemas.base import Address, Event
from millstream.schemas.dead_letters import DeadLetter, NotJson
from millstream.streams.bus.api import Delivery, Unreadable
from millstream.streams.wire.codec import rfc3339
from millstream.streams.wire.records import with_kept_headers

PLACE = Address(topic="t.requests", partition=1, offset=7)
AT_MS = 1_769_851_800_007

texts = st.text(st.sampled_from('aé"\\/\x00\x1b\x7f\x85\u2028\ufeff\n€😀'), max_size=6)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


def of_schema(  # noqa: C901, PLR0911, PLR0912  one case per kind of value
    schema: dict[str, Any], defs: dict[str, Any], *, most: int = 2
) -> st.SearchStrategy[Any]:
    """Give values of a schema as pydantic writes it; some may break rules that it leaves out."""
    match schema:
        case {"$ref": name}:
            return of_schema(defs[name.rpartition("/")[2]], defs)
        case {"const": value}:
            return st.just(value)
        case {"enum": some}:
            return st.sampled_from(some)
        case {"anyOf": some} | {"oneOf": some}:
            return st.one_of(*(of_schema(one, defs) for one in some))
        case {"type": "null"}:
            return st.none()
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "integer"}:
            least, greatest = schema.get("minimum", 0), schema.get("maximum", 2**62)
            return st.integers(least, greatest)
        case {"type": "number"}:
            return st.floats(0, 1e9)
        case {"type": "string", "pattern": pattern}:
            return st.from_regex(pattern, fullmatch=True)
        case {"type": "string", "minLength": least}:
            return st.text('aé€😀/"', min_size=least, max_size=least + 3)
        case {"type": "string"}:
            return texts
        case {"type": "array", "prefixItems": items}:
            return st.tuples(*(of_schema(one, defs) for one in items))
        case {"type": "array"}:
            items = of_schema(schema.get("items", {}), defs)
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=most)
        case {"type": "object", "properties": fields}:
            must = set(schema.get("required", ()))
            named = {name: of_schema(one, defs) for name, one in fields.items()}
            return st.fixed_dictionaries(
                {name: one for name, one in named.items() if name in must},
                optional={name: one for name, one in named.items() if name not in must},
            )
        case {"type": "object", "additionalProperties": dict() as inner}:
            return st.dictionaries(texts, of_schema(inner, defs), max_size=most)
        case {"type": "object"}:
            return st.dictionaries(texts, anything, max_size=most)
        case _:
            return anything


def told_before(event: Event) -> dict[str, Any]:
    shown = with_kept_headers(event) if isinstance(event, DeadLetter) else event
    return {
        "topic": PLACE.topic,
        "partition": PLACE.partition,
        "offset": PLACE.offset,
        "time": rfc3339(AT_MS).decode(),
        "event": shown.model_dump(mode="json", exclude_none=True),
    }


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda one: one.__name__)
def test_json_has_all_facts_of_each_event_in_their_order(event_type: type[Event]) -> None:
    schema = event_type.model_json_schema()

    @such(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(value=of_schema(schema, schema.get("$defs", {})))
    def check(value: Any) -> None:
        try:
            event = event_type.model_validate(value)
        except (ValidationError, ValueError):
            assume(False)
        line = entry_json(Delivery(event, PLACE, AT_MS))
        assert json.dumps(json.loads(line)) == json.dumps(told_before(event))
        assert line == in_line(line)  # nothing in it that a terminal would obey

    check()


def test_json_of_a_record_that_cannot_be_read_says_why() -> None:
    entry = Unreadable(PLACE, AT_MS, b"ada", NotJson("no\u2028JSON"))
    told = told_before(EVENT_TYPES[0].model_construct()) | {}
    del told["event"]
    why = {"code": "not_json", "message": "no\u2028JSON"}
    assert json.loads(entry_json(entry)) == told | {"unreadable": why}
    assert "\u2028" not in entry_json(entry)
