"""What an error says of Kafka."""

from __future__ import annotations

from aiokafka.errors import (
    NodeNotReadyError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
)

from millstream.streams.telemetry.causes import causes_of, is_denied, is_transient

REFUSED = ConnectionRefusedError(111, "Connect call failed")
DENIED = TopicAuthorizationFailedError("requests")


def raised_from(cause: BaseException | None, *, beside: BaseException | None = None) -> Exception:
    error = ValueError("no")
    error.__cause__, error.__context__ = cause, beside
    return error


def test_which_errors_are_transient() -> None:
    assert all(map(is_transient, (REFUSED, TimeoutError(), NodeNotReadyError())))
    assert is_transient(NotLeaderForPartitionError())
    assert not is_transient(TopicAuthorizationFailedError("requests"))
    assert not is_transient(ValueError("no"))


def test_an_error_says_that_a_right_is_lacking_if_what_it_was_raised_from_does() -> None:
    assert is_denied(DENIED)
    assert is_denied(raised_from(raised_from(DENIED)))
    assert not is_denied(raised_from(None))
    # What was being handled when another thing went wrong has not caused it.
    assert not is_denied(raised_from(None, beside=DENIED))


def test_what_was_handled_beside_is_given_where_it_is_asked_for() -> None:
    error = raised_from(None, beside=DENIED)
    assert list(causes_of(error)) == [error]
    assert list(causes_of(error, beside=True)) == [error, DENIED]


def test_errors_that_were_raised_from_each_other_end() -> None:
    one, other = raised_from(None), raised_from(None)
    one.__cause__, other.__cause__ = other, one
    assert len(list(causes_of(one))) == 10
    assert not is_denied(one)
