"""Whatever a tool returns, the model is told of it as text, or of what to return instead."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import uuid
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pydantic
import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool

from tests.fakes.odd_models import calling
from tests.harness.call_bench import DONE, bench


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: float
    tags: set[str]


class Order(pydantic.BaseModel):
    number: int
    at: dt.date


class Picture:
    """As PIL's images are: no JSON, but words."""

    def __repr__(self) -> str:
        """Say what it is."""
        return "<Picture 640x480>"


class Dumb:
    pass


class Mute:
    def __repr__(self) -> str:
        """Fail to."""
        message = "no words"
        raise ValueError(message)


async def apart() -> str:
    return ""


def endless() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


async def told_of(value: Any) -> Any:
    """Give what the model is told of a tool that returns this."""

    def gives() -> Any:
        return value

    tool = StructuredTool.from_function(gives, name="gives", description="x")
    one = bench([calling(("gives", {}, "c1")), DONE], tool)
    outcome = await one.run()
    assert (outcome.result.status, outcome.result.output) == ("completed", "done")
    (told,) = one.model.results(1)
    return told


SHOWN: dict[str, tuple[Any, str]] = {
    "text": ("plain", "plain"),
    "nothing": (None, "null"),
    "a number": (1.5, "1.5"),
    "a dict as LangChain writes it": ({"a": 1, "ü": [True]}, '{"a": 1, "ü": [true]}'),
    # Mindtrace/mindtrace#527: `NaN` is no JSON, and other readers than Python's fail by it.
    "NaN": ({"mean": float("nan"), "top": float("inf")}, '{"mean":"NaN","top":"Infinity"}'),
    "bare NaN": (float("nan"), "NaN"),
    # bojieli/ai-agent-book#206
    "a set": ({"only": {7}}, '{"only":[7]}'),
    "a pydantic model": (Order(number=1, at=dt.date(2026, 1, 2)), '{"number":1,"at":"2026-01-02"}'),
    "models in a list": ([Order(number=1, at=dt.date.min)], '[{"number":1,"at":"0001-01-01"}]'),
    "a dataclass": (Point(1.0, {"a"}), '{"x":1.0,"tags":["a"]}'),
    "a date": (dt.date(2026, 1, 2), "2026-01-02"),
    "a decimal": (decimal.Decimal("1.10"), "1.10"),
    "an id": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "a path": (PurePosixPath("/a"), "/a"),
    "an enum": (Colour.RED, "red"),
    "bytes that are text": ("grün".encode(), "grün"),
    "bytes inside": ({"raw": b"\xff"}, '{"raw":"_w=="}'),
    "an object with words": (Picture(), "<Picture 640x480>"),
    "such objects": ([Picture()], '["<Picture 640x480>"]'),
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), SHOWN.values(), ids=SHOWN)
async def test_a_result_is_told_as_text(value: Any, text: str) -> None:
    told = await told_of(value)
    assert (told.content, told.status) == (text, "success")


async def test_an_integer_of_thousands_of_digits_is_told_and_cut_like_any_text() -> None:
    told = await told_of({"n": 10**5000})
    assert json.loads(told.content[:9] + "}") == {"n": 1000}
    assert len(told.content) == 5007


async def test_ten_megabytes_are_cut_with_a_note_to_the_model() -> None:
    told = await told_of({"rows": ["ä" * 1000] * 5000})
    assert len(told.content.encode()) < 33_000
    assert told.content.endswith("bytes, of which the first 32768 are shown]")


async def test_blocks_of_content_stay_blocks() -> None:
    image = {"type": "image", "base64": "AA==", "mime_type": "image/png"}
    blocks = [{"type": "text", "text": "see"}, image]
    assert (await told_of(blocks)).content == blocks


NOT_SHOWN: dict[str, tuple[Any, str]] = {
    "a generator": (lambda: (one for one in "ab"), "returned a generator, of which nothing was"),
    "bytes": (lambda: b"\xff\x00", "was called, but returned 2 bytes that are no text: return"),
    "an object": (Dumb, "its result, of the type Dumb, cannot be shown"),
    "objects": (lambda: {"all": [Dumb()]}, "a Dumb does not say what it is"),
    "an object that cannot say itself": (Mute, "of the type Mute, cannot be shown"),
    "a ring": (endless, "cannot be shown (.*ircular"),
}


@pytest.mark.parametrize(("make", "words"), NOT_SHOWN.values(), ids=NOT_SHOWN)
async def test_a_result_without_text_is_told_as_such_and_what_to_return(
    make: Any, words: str
) -> None:
    told = await told_of(make())
    assert told.status == "error"
    assert told.content.startswith("TypeError: the tool 'gives' ")
    for part in words.split(".*"):
        assert part in told.content
    assert "0x" not in told.content


async def test_a_coroutine_inside_of_a_coroutine_is_not_told_by_its_address() -> None:
    async def gives() -> Any:
        return apart()

    tool = StructuredTool.from_function(coroutine=gives, name="gives", description="x")
    one = bench([calling(("gives", {}, "c1")), DONE], tool)
    await one.run()
    (told,) = one.model.results(1)
    assert told.content == "TypeError: the tool 'gives' returned an awaitable that nobody awaits"


async def test_an_artifact_is_kept_beside_a_result() -> None:
    def gives() -> Any:
        return {"mean": float("nan")}, Dumb()

    tool = StructuredTool.from_function(
        gives, name="gives", description="x", response_format="content_and_artifact"
    )
    one = bench([calling(("gives", {}, "c1")), AIMessage("done")], tool)
    assert (await one.run()).result.status == "completed"
    assert one.model.results(1)[0].content == '{"mean":"NaN"}'
