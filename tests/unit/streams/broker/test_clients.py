"""What an error of a client means, in a line."""

from __future__ import annotations

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from millstream.schemas.errors import LaneLost
from millstream.streams.broker.clients import not_reached
from millstream.streams.broker.security.refusals import AccessRefused
from millstream.streams.settings import Settings

SETTINGS = Settings(kafka="b:9092")


def raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AccessRefused("b:9092: wrong password"), "Kafka is not reached at b:9092: wrong password"),
        (
            raised(LaneLost("lost"), AccessRefused("b:9092: it has expired: renew c.pem")),
            "Kafka is not reached at b:9092: it has expired: renew c.pem",
        ),
        (KafkaConnectionError("no route"), "Kafka does not answer at b:9092: "),
        (TimeoutError(), "Kafka does not answer at b:9092: TimeoutError()"),
        (TopicAuthorizationFailedError({"m.redrives"}), "m.redrives"),
        (
            raised(LaneLost("lost"), TransactionalIdAuthorizationFailed("m-redrive-0")),
            "this user lacks a right on Kafka at b:9092",
        ),
    ],
)
def test_what_a_refusal_or_a_right_that_lacks_says_to_do_is_told(
    error: Exception, told: str
) -> None:
    words = str(not_reached(SETTINGS, error))
    assert told in words
    assert "\n" not in words
