"""Values of a journal's records: read back as they were written, or the nearest of them."""

from __future__ import annotations

from collections import OrderedDict, deque
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given

from millstream.agents.sessions.recorded.values import LEFT_OUT, ValueReader, ValueWriter
from tests.harness.odd_values import Colour, Order, Point, Torn, exact_values, over_the_wire, same
from tests.harness.odd_values import values as all_values


def written(value: Any, *, shown: bool = False) -> tuple[Any, ValueWriter]:
    writer = ValueWriter()
    return writer.value(value, "v", shown=shown), writer


def read_back(value: Any) -> Any:
    made, _ = written(value, shown=True)
    return ValueReader().value(over_the_wire(made))


@given(exact_values)
def test_a_value_of_a_known_type_is_read_back_as_it_was(value: Any) -> None:
    made, writer = written(value)
    assert writer.is_exact
    assert writer.lost == []
    back = ValueReader().value(over_the_wire(made))
    assert same(back, value)


@given(all_values)
def test_what_is_read_back_once_is_read_back_as_it_is_from_then_on(value: Any) -> None:
    made, writer = written(value)
    if made is LEFT_OUT:
        assert writer.lost
        return
    nearest = ValueReader().value(over_the_wire(made))
    again, second = written(nearest)
    assert second.is_exact
    assert same(ValueReader().value(over_the_wire(again)), nearest)
    if writer.is_exact:
        assert same(nearest, value)


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        (Colour.RED, "red"),
        ((Point(2),), ({"x": 2, "raw": b"\xff"},)),
        ({Point(): 1}, {"Point(x=1, raw=b'\\xff')": 1}),
        (Order(), {"number": 7, "secret": "**********", "paid": float("inf")}),
        (OrderedDict(a=deque([1])), {"a": [1]}),
        (Path("a/b"), "a/b"),
        (bytearray(b"\x00"), b"\x00"),
        ("half \ud83d", "half ?"),
        ("\ud83d\ude00", "😀"),
        pytest.param(10**5_000, "about 2**16610", id="more digits than Python reads"),
    ],
)
def test_a_value_of_another_type_is_read_as_the_nearest(value: Any, nearest: Any) -> None:
    _, writer = written(value, shown=True)
    assert not writer.is_exact
    assert same(read_back(value), nearest)


def test_a_time_in_a_named_zone_is_read_at_its_distance_to_utc() -> None:
    at = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    _, writer = written(at)
    assert not writer.is_exact
    assert read_back(at) == at


class Array:
    """What NumPy's arrays and scalars say of themselves."""

    def tolist(self) -> list[float]:
        return [1.5, float("nan")]


def test_an_array_is_read_as_a_list() -> None:
    assert same(read_back(Array()), [1.5, float("nan")])


@pytest.mark.parametrize("value", [object(), Torn(), len, iter([1])])
def test_what_has_no_json_is_left_out_and_named_or_put_in_words_where_a_model_sees_it(
    value: Any,
) -> None:
    made, writer = written({"a": {"b": value}, "c": [1, value]})
    assert made == {"a": {}, "c": [1]}
    assert [one.partition(":")[0] for one in writer.lost] == ["v.a.b", "v.c[1]"]
    made, writer = written([value], shown=True)
    assert isinstance(made[0], str)
    assert len(writer.lost) == 1


def test_what_contains_itself_or_doubles_at_each_level_is_written_in_bounds() -> None:
    circle: list[Any] = []
    circle += [circle, circle]
    doubled: Any = [1]
    for _ in range(90):
        doubled = [doubled, doubled]
    for endless in (circle, {"$ref": doubled}):
        made, writer = written(endless, shown=True)
        assert not writer.is_exact
        assert len(writer.lost) == 20
        over_the_wire(made)


@pytest.mark.parametrize("tagged", ["list", "dict", "$dict", "tuple", "message", "beside"])
def test_what_is_nested_as_deep_as_can_be_written_is_read(tagged: str) -> None:
    value: Any = 1
    for _ in range(1_000):
        value = {
            "list": [value],
            "dict": {"a": value},
            "$dict": {"$ref": value},
            "tuple": (value,),
            "message": {1: value},
            "beside": {"$ref": value, "b": object()},
        }[tagged]
    made, writer = written(value)
    assert not writer.is_exact
    ValueReader().value(over_the_wire({"content": [{"a": made}]}))


@pytest.mark.parametrize(
    "odd",
    [
        {"$class": "os.system"},
        {"$bytes": "no base64"},
        {"$bytes": 1},
        {"$float": "one"},
        {"$dict": [["a"]]},
        {"$dict": [[[], 1]]},
        {"$dict": 5},
        {"$set": [[]]},
        {"$tuple": "ab"},
        {"$datetime": "NaT"},
        {"$decimal": "x"},
        {"$uuid": 5},
        {"$timedelta": [10**20, 0, 0]},
        {"$timedelta": {}},
    ],
)
def test_what_is_not_written_so_is_not_read(odd: Any) -> None:
    with pytest.raises(ValueError, match=r"\$"):
        ValueReader().value([{"a": odd}])
