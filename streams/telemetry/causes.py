"""What an error says of Kafka, by its type and by what caused it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    StaleMetadata,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

__all__ = ["DENIED", "TRANSIENT", "causes_of", "is_denied", "is_transient"]

TRANSIENT: Final = (
    OSError,  # also `TimeoutError`
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
    StaleMetadata,
)

DENIED: Final = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

_CAUSES_MAX = 10


def causes_of(error: BaseException | None, *, beside: bool = False) -> Iterator[BaseException]:
    """Give an error and what it was raised from, ten of them at most.

    With `beside` also what was being handled where one was raised from nothing.
    """
    cause = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (cause.__context__ if beside else None)


def is_denied(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, says that this user lacks a right on Kafka."""
    return any(isinstance(one, DENIED) for one in causes_of(error))


def is_transient(error: BaseException | None) -> bool:
    """Tell whether an error says only that a service is away, slow, or being put right."""
    return isinstance(error, TRANSIENT) or (
        isinstance(error, KafkaError) and bool(getattr(error, "retriable", False))
    )
