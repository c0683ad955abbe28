"""Server-sent events are the same however the network cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.agents.models.openai.server_events import (
    EVENT_BYTES_MAX,
    EventReader,
    ServerEvent,
)
from millstream.schemas.errors import ModelFailed

STREAM = (
    b": a comment\n\n"
    b'data: {"a": 1}\n\n'
    b'event: error\r\ndata: {"b":\r\ndata:  2}\r\n\r\n'
    b"id: 7\nretry: 10\ndata:no blank\n\n"
    b"\n\n\n"
    b"data: \xe2\x82\xac\r\rdata: [DONE]\n\n"
)
EVENTS = [
    ServerEvent(b'{"a": 1}'),
    ServerEvent(b'{"b":\n 2}', b"error"),
    ServerEvent(b"no blank"),
    ServerEvent("€".encode()),
    ServerEvent(b"[DONE]"),
]


def read(pieces: Sequence[bytes]) -> list[ServerEvent]:
    reader = EventReader()
    events = [event for piece in pieces for event in reader.read(piece)]
    return [*events, *reader.end()]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_do_not_depend_on_where_a_body_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(places)]
    assert read(pieces) == EVENTS


def test_a_body_may_come_byte_by_byte() -> None:
    assert read([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
def test_the_last_event_may_lack_its_last_line(end: bytes) -> None:
    assert read([b"data: a\n\ndata: b" + end]) == [ServerEvent(b"a"), ServerEvent(b"b")]


@pytest.mark.parametrize("cut", range(5))
def test_a_mark_of_the_byte_order_is_no_part_of_the_first_event(cut: int) -> None:
    # openai-python's pull request 3819; only at the beginning (WHATWG's HTML, section 9.2.6).
    stream = b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n"
    events = [ServerEvent(b"a"), ServerEvent(b"\xef\xbb\xbfb")]
    assert read([stream[:cut], stream[cut:]]) == events
    assert read([b"\xef\xbb\xbfdata: a"]) == events[:1]


def test_an_event_without_data_is_none_and_names_no_other() -> None:
    # openai-python's pull request 2721, openai-go's 651, pi's issue 8430.
    stream = b"data:\n\ndata: \n\nevent: error\n\nretry: 3000\n\ndata: a\n\nevent: error\ndata\n\n"
    assert read([stream]) == [ServerEvent(b"a")]


@pytest.mark.parametrize("line", [b"data: ", b"data: x\ndata: "])
def test_an_event_without_end_is_not_held(line: bytes) -> None:
    piece = line + b"x" * (1 << 20)
    with pytest.raises(ModelFailed, match="event of more than"):
        read([piece] * (EVENT_BYTES_MAX // len(piece) + 4))
