"""What a producer of aiokafka's leaves unheard as it fails, which would be told with tracebacks.

A batch that fails before it was sent, and a transaction that ends in an error, hold futures for
whoever may wait for them. Where nobody does, asyncio tells of each with the next collection, long
after the commit that failed has been told of.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.transaction_manager import TransactionManager

__all__ = ["REFUSED_AS_TOO_LARGE", "hear", "hear_failed_sends"]

REFUSED_AS_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
"""What a send raises whose batch is larger than its topic, or a request, may have."""

_failure = MessageBatch.failure
_fatal_error = TransactionManager.fatal_error
_error_transaction = TransactionManager.error_transaction


def hear_failed_sends() -> None:
    """Have all producers of this process take note of these themselves; may be called again."""
    MessageBatch.failure = _heard_failure
    TransactionManager.fatal_error = _heard_fatal_error
    TransactionManager.error_transaction = _heard_error


def _heard_failure(batch: Any, exception: BaseException) -> None:
    _failure(batch, exception)
    hear(batch._drain_waiter)  # noqa: SLF001  it has no public way


def _heard_fatal_error(transactions: Any, exception: BaseException) -> None:
    _fatal_error(transactions, exception)
    hear(transactions._transaction_waiter)  # noqa: SLF001  as above


def _heard_error(transactions: Any, exception: BaseException) -> None:
    _error_transaction(transactions, exception)
    hear(transactions._transaction_waiter)  # noqa: SLF001  as above


def hear(future: asyncio.Future[Any]) -> None:
    """Take note of how a future failed, if it did; whoever waits for it is told all the same."""
    if future.done() and not future.cancelled():
        future.exception()
