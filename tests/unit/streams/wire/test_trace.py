"""W3C trace context: goes on as the standard says, or begins anew, and never half."""

from __future__ import annotations

import re

import pytest

from millstream.streams.wire.codec import encode, trace_of
from millstream.streams.wire.headers import forwarded_headers
from millstream.streams.wire.trace import Trace, given_trace, new_trace
from tests import making
from tests.making import record

IDS = b"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
PARENT = b"00-" + IDS + b"-01"

MEMBERS_32 = b",".join(b"k%d=1" % number for number in range(32))

MALFORMED = [
    b"",
    b"\xff",
    b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01",
    b"00-" + b"1" * 32 + b"-" + b"0" * 16 + b"-01",
    b"00-" + b"1" * 31 + b"-" + b"1" * 16 + b"-01",
    PARENT + b"\n",
    PARENT + b".",
    PARENT + b"-what-the-future-will-be-like",
    PARENT.upper(),
    b" " + PARENT,
    b"ff-" + IDS + b"-01",
    b"cc-" + IDS + b"-01.what-the-future-will-be-like",
    b"cc-" + IDS + b"-01-\n",
    b"cc-" + IDS + b"-01\n",
    b"cc-" + IDS + b"-1",
    b"xx-" + IDS + b"-01",
    b"000-" + IDS + b"-1",
]


@pytest.mark.parametrize("given", MALFORMED)
def test_a_malformed_parent_starts_a_new_trace_and_takes_its_state_nowhere(given: bytes) -> None:
    headers = (("traceparent", given), ("tracestate", b"vendor=1"))
    found = trace_of(record(b"", headers=headers))
    assert found.parent != given
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", found.parent)
    assert found.state is None
    assert forwarded_headers(headers) == []


def test_without_a_parent_there_is_no_state() -> None:
    assert given_trace((("tracestate", b"vendor=1"),)) is None
    assert given_trace(()) is None


@pytest.mark.parametrize(
    ("given", "goes_on_as"),
    [
        (PARENT, PARENT),
        (b"00-" + IDS + b"-02", b"00-" + IDS + b"-02"),
        (b"cc-" + IDS + b"-01", PARENT),
        (b"cc-" + IDS + b"-03-what-the-future-will-be-like", PARENT),
        (b"01-" + IDS + b"-02-", b"00-" + IDS + b"-00"),
    ],
)
def test_a_parent_of_a_later_version_goes_on_in_ours(given: bytes, goes_on_as: bytes) -> None:
    headers = (("traceparent", given), ("tracestate", b"vendor=1"))
    trace = trace_of(record(b"", headers=headers))
    assert trace == Trace(goes_on_as, b"vendor=1")
    assert dict(forwarded_headers(headers)) == {
        "traceparent": goes_on_as,
        "tracestate": b"vendor=1",
    }


@pytest.mark.parametrize(
    ("given", "goes_on_as"),
    [
        (b"a=1,b=2", b"a=1,b=2"),
        (b"a=1 , ,\tb=2,", b"a=1,b=2"),
        (b"0tenant@vendor=x y", b"0tenant@vendor=x y"),
        (b"a=1,a=2", None),
        (b"a", None),
        (b"A=1", None),
        (b"a=1\n", None),
        (b"a=\xff", None),
        (b"a=1=2", None),
        (b",", None),
        (MEMBERS_32, MEMBERS_32),
        (MEMBERS_32 + b",one=more", None),
    ],
)
def test_a_malformed_state_is_left_behind_and_its_trace_goes_on(
    given: bytes, goes_on_as: bytes | None
) -> None:
    found = given_trace((("traceparent", PARENT), ("tracestate", given)))
    assert found == Trace(PARENT, goes_on_as)


def test_a_state_beyond_its_limit_loses_whole_members_at_its_end() -> None:
    long = b",".join(b"k%d=" % number + b"x" * 200 for number in range(4))
    found = given_trace((("traceparent", PARENT), ("tracestate", long)))
    assert found is not None
    assert found.state == b",".join(long.split(b",")[:2])


def test_states_in_several_headers_are_one_list_and_the_last_parent_counts() -> None:
    other = b"00-" + b"1" * 32 + b"-" + b"1" * 16 + b"-01"
    headers = (
        ("traceparent", other),
        ("tracestate", b"a=1"),
        ("traceparent", PARENT),
        ("tracestate", b"b=2"),
    )
    assert given_trace(headers) == Trace(PARENT, b"a=1,b=2")
    assert given_trace((*headers, ("traceparent", b"none"))) is None


def test_what_is_written_names_its_trace() -> None:
    trace = Trace(PARENT, b"vendor=1")
    for given in (trace, new_trace()):
        encoded = encode(making.token(), source="/x", traceparent=given)
        assert given_trace(encoded.headers) == given
