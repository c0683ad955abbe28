"""Bad input is refused before anything is sent, in words that say what to give."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from millstream.agents.sessions.manager import ANY_SESSION, SessionFilter
from millstream.schemas.sessions.commands import SessionOperation, SessionTtl
from millstream.schemas.sessions.errors import SessionInputInvalid
from millstream.streams.sessions.inputs import (
    check_list,
    checked_id,
    checked_tenant,
    command_of,
    new_ulid,
)
from millstream.streams.sessions.paging import Cursors

A_THOUSAND_YEARS = timedelta(days=365_000)
LOOK_ALIKE = "s\u0435ssion"  # its second letter is Cyrillic


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ttl": 0}, r"ttl\.idle_s: .*1 to 2,592,000 \(30 days\)"),
        ({"ttl": -1}, r"ttl\.idle_s"),
        ({"ttl": A_THOUSAND_YEARS}, r"ttl\.idle_s: .*30 days"),
        ({"ttl": timedelta(seconds=0.5)}, r"ttl\.idle_s: .*whole seconds"),
        ({"ttl": float("nan")}, r"ttl\.idle_s"),
        ({"ttl": True}, "not bool"),
        ({"ttl": "1h"}, "not str"),
        ({"ttl": {"idle": 5}}, "not dict"),
        ({"metadata": {"a": "x" * 1_000_000}}, r"metadata\.a: .*1,024 characters"),
        ({"metadata": {str(number): "x" for number in range(10_000)}}, "at most 32"),
        ({"metadata": {"a": 5}}, r"metadata\.a: .*string"),
        ({"metadata": {5: "a"}}, "metadata"),
        ({"metadata": {"a": {"b": "c"}}}, "metadata"),
        ({"metadata": ["a"]}, "not a dict but list"),
        ({"metadata": {"k" * 1_000_000: "a"}}, "names of 1 to 256"),
        ({"metadata": {"": "a"}}, "names of 1 to 256"),
        ({"metadata": {"\ud800": "a"}}, "names of 1 to 256"),
        ({"metadata": {"a": "\ud800"}}, "metadata"),
        ({"session_id": ""}, "session_id: .*1 to 256 characters"),
        ({"session_id": "a\nb"}, "session_id: .*line break"),
        ({"session_id": "x" * 10_000}, "session_id: .*1 to 256 characters"),
        ({"session_id": "\ud800"}, "session_id"),
        ({"session_id": 7}, "session_id"),
        ({"user_id": "a\0b"}, "user_id: .*control"),
        ({"tenant": "a/b"}, "tenant: .*letters, digits"),
        ({"command_id": ""}, "command_id: .*1 to 256"),
        ({"by": "x\n"}, "by: .*line break"),
        ({"why": "x" * 501}, "why: .*500 characters"),
    ],
    ids=lambda one: ascii(one)[:40],
)
def test_what_cannot_be_is_refused_and_not_repeated(given: dict[str, Any], told: str) -> None:
    fields = {"user_id": "ada", "session_id": "s", "tenant": "default", **given}
    with pytest.raises(SessionInputInvalid, match=told) as refused:
        command_of("create", fields.pop("user_id"), fields.pop("session_id"), **fields)
    assert len(str(refused.value)) < 400
    str(refused.value).encode()
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("given", [{}, {"turn": 0}, {"turn": 1, "name": "a"}, {"name": "a\n"}])
def test_a_restore_goes_to_one_turn_or_to_one_name(given: dict[str, Any]) -> None:
    with pytest.raises(SessionInputInvalid):
        command_of("restore", "ada", "s", **given)


@pytest.mark.parametrize(
    ("operation", "given", "told"),
    [
        ("create", {"metadta": {"a": "1"}}, "create takes no argument 'metadta'"),
        ("create", {"turn": 3}, "create takes no argument 'turn'"),
        ("touch", {"ttl": 60}, "touch takes no argument 'ttl'"),
        ("delete", {"drain": True}, "delete takes no argument 'drain'"),
        ("expire", {"if_due": True}, "expire takes no argument 'if_due'"),
        ("close", {"timeout_s": 5}, "it is the manager's: SessionManager\\(bus, store, timeout_s="),
    ],
)
def test_an_argument_that_an_operation_does_not_take_is_not_passed_over(
    operation: SessionOperation, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        command_of(operation, "ada", "s", **given)


@pytest.mark.parametrize("name", ["a:b{}", " s ", LOOK_ALIKE, "x" * 256, "ä/ö"])
def test_any_other_name_is_only_a_name(name: str) -> None:
    assert command_of("create", name, name).session_id == name
    assert checked_id("session_id", name) == name
    assert checked_id("session_id", LOOK_ALIKE) != "session"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"limit": 0}, "limit is 0; give 1 to 100"),
        ({"limit": 101}, "limit is 101; give 1 to 100"),
        ({"limit": "2"}, "limit is '2'; give 1 to 100"),
        ({"limit": True}, "limit is True; give 1 to 100"),
        ({"after": 7}, "after is 7; give the `after` of the page before"),
        ({"order": "newst"}, "order is 'newst'; give 'newest' or 'oldest'"),
        ({"wanted": {"state": "open"}}, "give a SessionFilter"),
        ({"wanted": SessionFilter(state="opne")}, "'opne'; give 'open', 'closed' or 'expired'"),  # type: ignore[arg-type]
        ({"wanted": SessionFilter(state="deleted")}, "deleted sessions are not listed"),
        ({"wanted": SessionFilter(template="")}, "give an agent's name, or leave it out"),
        ({"wanted": SessionFilter(metadata={"a": 1})}, "give a dict of strings"),  # type: ignore[dict-item]
        ({"wanted": SessionFilter(used_from_ms=1.5)}, "used_from_ms is 1.5; give whole milli"),  # type: ignore[arg-type]
    ],
)
def test_a_list_that_can_show_nothing_is_refused_and_not_empty(
    given: dict[str, Any], told: str
) -> None:
    asked = {"limit": 10, "after": None, "order": "newest", "wanted": ANY_SESSION} | given
    with pytest.raises(SessionInputInvalid) as refused:
        check_list(**asked)
    assert told in str(refused.value)


def test_lists_that_can_show_something_are_taken() -> None:
    check_list(1, None, "newest", ANY_SESSION)
    wanted = SessionFilter(state="closed", template="t", metadata={"a": ""}, used_from_ms=0)
    check_list(100, "cursor", "oldest", wanted)


@pytest.mark.parametrize(
    "cursor", ["garbage", "", "0", Cursors("t", "b", "newest", ANY_SESSION).at("000000000000001:s")]
)
def test_a_cursor_of_elsewhere_is_bad_input_as_any_other(cursor: str) -> None:
    with pytest.raises(SessionInputInvalid, match="to begin anew"):
        Cursors("t", "ada", "newest", ANY_SESSION).place(cursor)


def test_two_spellings_of_a_name_are_one() -> None:
    # google/adk-python#6887: an id was trimmed after it was looked up, and another was overwritten.
    assert checked_id("session_id", "e\u0301") == "\u00e9"
    assert command_of("create", "ada", "e\u0301").session_id == "\u00e9"


def test_what_is_read_is_checked_alike() -> None:
    with pytest.raises(SessionInputInvalid, match=r"session_id: .*line break"):
        checked_id("session_id", "a\nb")
    with pytest.raises(SessionInputInvalid, match=r"tenant: .*letters"):
        checked_tenant("")


def test_a_time_to_live_is_seconds_a_timedelta_or_both_limits() -> None:
    both = SessionTtl(idle_s=60, total_s=3600)
    given = [60, timedelta(minutes=1), both]
    assert [command_of("create", "ada", "s", ttl=one).ttl for one in given] == [
        SessionTtl(idle_s=60),
        SessionTtl(idle_s=60),
        both,
    ]
    with pytest.raises(ValidationError):
        SessionTtl(total_s=1_000 * 365 * 86_400)


def test_made_ids_sort_by_time_and_none_comes_twice() -> None:
    made = [new_ulid() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert [one[:10] for one in made] == sorted(one[:10] for one in made)
    assert {len(one) for one in made} == {26}
