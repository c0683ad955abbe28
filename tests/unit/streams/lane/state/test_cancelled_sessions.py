"""A session's cancel is remembered for as long as what came before it may come."""

from __future__ import annotations

from millstream.schemas.base import Address
from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.topics import DAY_MS, REQUESTS
from millstream.streams.lane.state.sessions.cancelled import CANCELS_MAX, CancelledSessions
from millstream.streams.topic_settings.retention import Retention

SESSION = ("default", "ada", "s")
HERE = Address(topic="control", partition=0, offset=7)


def obeyed(**fields: object) -> CommandObeyed:
    return CommandObeyed.model_validate({"user_id": "ada", "source": HERE, **fields})


def test_what_arrived_no_later_than_a_cancel_is_covered() -> None:
    cancelled = CancelledSessions()
    cancelled.fold(obeyed(command="cancel", session_id="s", until_ms=1000))
    assert cancelled.covers(SESSION, 1000)
    assert not cancelled.covers(SESSION, 1001)
    assert not cancelled.covers(("default", "ada", "another"), 1000)
    assert not cancelled.covers(("other", "ada", "s"), 1000)


def test_of_two_cancels_the_later_one_counts_in_whatever_order_they_come() -> None:
    cancelled = CancelledSessions()
    for until_ms in (1000, 3000, 2000):
        cancelled.cancel(SESSION, until_ms)
    assert cancelled.until(SESSION) == 3000
    assert cancelled.all == ((SESSION, 3000),)


def test_other_commands_and_a_mark_without_a_time_cancel_no_session() -> None:
    cancelled = CancelledSessions()
    cancelled.fold(obeyed(command="pause", session_id="s"))
    cancelled.fold(obeyed(command="cancel", session_id="s"))
    cancelled.fold(obeyed(command="cancel", request_id="s"))
    assert cancelled.all == ()


def test_a_cancel_is_forgotten_when_no_request_from_before_it_can_be_on_the_log() -> None:
    assert REQUESTS.retention_ms is not None
    cancelled = CancelledSessions()
    cancelled.cancel(SESSION, 1000)
    cancelled.cancel(("default", "bob", "s"), 1000 + REQUESTS.retention_ms)
    assert cancelled.covers(SESSION, 1000)
    cancelled.cancel(("default", "bob", "s"), 1001 + REQUESTS.retention_ms)
    assert not cancelled.covers(SESSION, 1000)


def test_no_more_than_so_many_are_remembered_and_the_oldest_goes_first() -> None:
    cancelled = CancelledSessions()
    for number in range(CANCELS_MAX + 2):
        cancelled.cancel(("default", "ada", f"s{number}"), 1000 + number)
    assert len(cancelled.all) == CANCELS_MAX
    assert not cancelled.covers(("default", "ada", "s1"), 0)
    assert cancelled.covers(("default", "ada", "s2"), 0)


def test_a_cancel_is_remembered_as_long_as_requests_are_kept_longer() -> None:
    cancelled = CancelledSessions(Retention({"requests": {"retention.ms": 30 * DAY_MS}}))
    cancelled.cancel(SESSION, 1000)
    cancelled.cancel(("default", "bob", "s"), 1000 + 30 * DAY_MS)
    assert cancelled.covers(SESSION, 1000)
    cancelled.cancel(("default", "bob", "s"), 1001 + 30 * DAY_MS)
    assert not cancelled.covers(SESSION, 1000)
