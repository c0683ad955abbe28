from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, create_model

from millstream.schemas.base import Event
from millstream.schemas.documents.asyncapi import asyncapi_document
from millstream.schemas.documents.compatibility import channel_breaks, event_breaks, schema_breaks
from millstream.schemas.documents.contract import event_schemas

Fields = dict[str, Any]


def schema(**fields: Any) -> dict[str, Any]:
    return create_model("Probe", __base__=Event, **fields).model_json_schema()


def told(old: Fields, new: Fields) -> list[str]:
    return [str(problem) for problem in schema_breaks(schema(**old), schema(**new), "probe")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({"x": (int, ...)}, {"x": (int, ...)}, id="nothing changed"),
        pytest.param({}, {"x": (int | None, None)}, id="a new optional field"),
        pytest.param({}, {"x": (int, 7)}, id="a new field with a default"),
        pytest.param({"x": (int | None, None)}, {}, id="a field gone that could be missing"),
        pytest.param({"x": (int, ...)}, {"x": (int, 7)}, id="a required field that got a default"),
        pytest.param({"x": (list[int], ...)}, {"x": (list[int], ...)}, id="the same list"),
    ],
)
def test_a_change_that_breaks_nobody_is_let_through(old: Fields, new: Fields) -> None:
    assert told(old, new) == []


def test_a_default_may_gain_what_its_new_fields_have_anyway() -> None:
    old, new, other = (
        create_model("Part", a=(int, 0)),
        create_model("Part", a=(int, 0), b=(int, 0)),
        create_model("Part", a=(int, 0), b=(int, 7)),
    )
    assert told({"x": (old, old())}, {"x": (new, new())}) == []
    assert told({"x": (old, old())}, {"x": (other, other(b=5))}) != []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param(
            {"x": (int, 7)},
            {},
            "probe.x: it was in every record and is gone (breaks the old reader)",
            id="a field gone",
        ),
        pytest.param(
            {"x": (int, ...)},
            {"x": (int | None, None)},
            "probe.x: it was in every record and may now be missing (breaks the old reader)",
            id="a field that may now be missing",
        ),
        pytest.param(
            {},
            {"x": (int, ...)},
            "probe.x: it is new and required, and no old record has it (breaks the new reader)",
            id="a new required field",
        ),
        pytest.param(
            {"x": (int, 7)},
            {"x": (int, ...)},
            "probe.x: it was optional and is now required (breaks the new reader)",
            id="an optional field that is now required",
        ),
        pytest.param(
            {"x": (int, 7)},
            {"x": (int, 8)},
            "probe.x: its default changed, so records without it change (breaks the new reader)",
            id="another default",
        ),
        pytest.param(
            {"x": (Literal["a"], ...)},
            {"x": (Literal["a", "b"], ...)},
            "probe.x: it may now be b (breaks the old reader)",
            id="a new value of a closed set",
        ),
        pytest.param(
            {"x": (Literal["a", "b"], ...)},
            {"x": (Literal["a"], ...)},
            "probe.x: it may no longer be b (breaks the new reader)",
            id="a value of a closed set gone",
        ),
        pytest.param(
            {"x": (Literal["a", "b"], ...)},
            {"x": (str, ...)},
            "probe.x: any value is allowed now (breaks the old reader)",
            id="a closed set opened",
        ),
        pytest.param(
            {"x": (str, ...)},
            {"x": (Literal["a", "b"], ...)},
            "probe.x: only a, b is allowed now (breaks the new reader)",
            id="an open set closed",
        ),
        pytest.param(
            {"x": (str, Field(max_length=9))},
            {"x": (str, Field(max_length=99))},
            "probe.x: maxLength changed from 9 to 99 (breaks the old reader)",
            id="an upper bound raised",
        ),
        pytest.param(
            {"x": (str, Field(max_length=99))},
            {"x": (str, Field(max_length=9))},
            "probe.x: maxLength changed from 99 to 9 (breaks the new reader)",
            id="an upper bound lowered",
        ),
        pytest.param(
            {"x": (int, ...)},
            {"x": (int, Field(ge=0))},
            "probe.x: minimum changed from none to 0 (breaks the new reader)",
            id="a lower bound set",
        ),
        pytest.param(
            {"x": (int, Field(ge=0))},
            {"x": (int, ...)},
            "probe.x: minimum changed from 0 to none (breaks the old reader)",
            id="a lower bound lifted",
        ),
        pytest.param(
            {"x": (int, Field(ge=5))},
            {"x": (int, Field(ge=3))},
            "probe.x: minimum changed from 5 to 3 (breaks the old reader)",
            id="a lower bound lowered",
        ),
        pytest.param(
            {"x": (dict[str, str], ...)},
            {"x": (dict[str, str | None], ...)},
            "probe.x[]: it may now be null (breaks the old reader)",
            id="values of a map that may be null",
        ),
    ],
)
def test_a_break_of_one_reader_is_told_in_words(old: Fields, new: Fields, problem: str) -> None:
    assert told(old, new) == [problem]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ((int, ...), (float, ...), "probe.x: its type changed from integer to number"),
        ((int, ...), (int | str, ...), "probe.x: its type changed from integer to integer, string"),
        ((list[int], ...), (list[str], ...), "probe.x[]: its type changed from integer to string"),
        ((tuple[int, int], ...), (tuple[int], ...), "probe.x: it has 1 places instead of 2"),
        (
            (tuple[int], ...),
            (tuple[str], ...),
            "probe.x[0]: its type changed from integer to string",
        ),
        (
            (str, Field(pattern="^a$")),
            (str, Field(pattern="^b$")),
            "probe.x: pattern changed from ^a$ to ^b$",
        ),
        (
            (dict[str, Any], ...),
            (dict[str, int], ...),
            "probe.x: what it may hold changed (additionalProperties)",
        ),
    ],
)
def test_a_change_of_type_breaks_both_readers(old: Any, new: Any, what: str) -> None:
    found = told({"x": old}, {"x": new})
    assert f"{what} (breaks the old reader)" in found
    assert f"{what} (breaks the new reader)" in found


def test_a_break_inside_a_nested_value_is_found_and_addressed() -> None:
    inner_old = create_model("Inner", y=(int, ...))
    inner_new = create_model("Inner", y=(str, ...))
    found = told({"x": (inner_old | None, None)}, {"x": (inner_new | None, None)})
    assert "probe.x.y: its type changed from integer to string (breaks the new reader)" in found


def test_a_newer_schema_version_excuses_what_breaks_the_old_reader() -> None:
    old = {"probe": schema(x=(Literal["a"], ...))}
    wider = schema(x=(Literal["a", "b"], ...), schema_version=(int, Field(default=2, ge=1)))
    assert event_breaks(old, {"probe": wider}) == []


def test_a_newer_schema_version_does_not_excuse_what_breaks_the_new_reader() -> None:
    old = {"probe": schema(x=(Literal["a", "b"], ...))}
    tighter = schema(x=(Literal["a"], ...), schema_version=(int, Field(default=2, ge=1)))
    [problem] = event_breaks(old, {"probe": tighter})
    assert str(problem) == "probe.x: it may no longer be b (breaks the new reader)"


def test_an_event_that_is_gone_is_told() -> None:
    [problem] = event_breaks({"probe": schema()}, {})
    assert problem.where == "probe"
    assert "gone" in problem.what


def test_a_new_event_breaks_nobody() -> None:
    assert event_breaks({}, {"probe": schema()}) == []


def test_every_event_is_compatible_with_itself() -> None:
    assert event_breaks(event_schemas(), event_schemas()) == []


def test_a_channel_that_is_gone_moved_rekeyed_or_carries_something_else_is_told() -> None:
    old, new = asyncapi_document("0.1.0"), asyncapi_document("0.2.0")
    assert channel_breaks(old, new) == []
    del new["channels"]["tokens"]
    new["channels"]["results"]["address"] = "{namespace}.answers"
    new["channels"]["costs"]["messages"] = {"bill": {}}
    new["components"]["messages"]["decision"]["bindings"]["kafka"]["key"]["description"] = "request"
    assert {str(problem) for problem in channel_breaks(old, new)} == {
        "channel tokens: it is gone (breaks the old reader)",
        (
            "channel results: it moved from {namespace}.results to {namespace}.answers "
            "(breaks the old reader)"
        ),
        "channel costs: it carries bill instead of cost (breaks the old reader)",
        (
            "channel decisions: decision is keyed by 'request' instead of 'user' "
            "(breaks the old reader)"
        ),
    }
