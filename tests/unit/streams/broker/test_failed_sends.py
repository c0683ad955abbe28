"""What fails with a producer is told by what waits for it, not again for each of its futures."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ProducerFenced
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.transaction_manager import TransactionManager

from millstream.streams.broker import failed_sends
from millstream.streams.broker.batches import Outgoing, send_batches
from millstream.streams.broker.failed_sends import hear_failed_sends
from millstream.streams.wire.codec import Encoded


@pytest.fixture
async def unheard() -> AsyncIterator[list[Any]]:
    """Give what asyncio tells of futures that nobody has asked."""
    told: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    hear_failed_sends()
    yield told
    loop.set_exception_handler(None)
    MessageBatch.failure = failed_sends._failure
    TransactionManager.fatal_error = failed_sends._fatal_error
    TransactionManager.error_transaction = failed_sends._error_transaction


async def test_a_batch_that_fails_before_it_was_sent(unheard: list[Any]) -> None:
    batch = MessageBatch(TopicPartition("results", 0), None, 1.0, 0.0)
    batch.failure(ProducerFenced())
    with pytest.raises(ProducerFenced):
        await batch.future
    with pytest.raises(ProducerFenced):  # whoever waits hears it
        await batch.wait_drain()
    batch = MessageBatch(TopicPartition("results", 0), None, 1.0, 0.0)
    batch.failure(ProducerFenced())
    with pytest.raises(ProducerFenced):
        await batch.future
    del batch
    gc.collect()
    assert unheard == []


@pytest.mark.parametrize("end", ["fatal_error", "error_transaction"])
async def test_a_transaction_that_ends_in_an_error(unheard: list[Any], end: str) -> None:
    transactions = TransactionManager("chain-0", 1000)
    transactions.set_pid_and_epoch(1, 1)
    transactions.begin_transaction()
    getattr(transactions, end)(ProducerFenced())
    waiter = transactions._transaction_waiter
    assert isinstance(waiter.exception(), ProducerFenced)
    transactions = TransactionManager("chain-0", 1000)
    transactions.set_pid_and_epoch(1, 1)
    transactions.begin_transaction()
    getattr(transactions, end)(ProducerFenced())
    del transactions
    gc.collect()
    assert unheard == []


class FailsAtTheSecond:
    """A producer that takes one batch, which fails, and refuses the next."""

    def __init__(self) -> None:
        self.first: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.taken = 0

    def create_batch(self) -> Any:
        return Batch()

    async def send_batch(self, _batch: Any, _topic: str, *, partition: int) -> asyncio.Future[Any]:
        del partition
        self.taken += 1
        if self.taken > 1:
            raise ProducerFenced
        return self.first


class Batch:
    """A batch that takes everything."""

    def append(self, **_: Any) -> object:
        return object()

    def close(self) -> None:
        pass


async def test_batches_that_were_sent_before_one_could_not_be(unheard: list[Any]) -> None:
    producer = FailsAtTheSecond()
    records = [Outgoing(topic, 0, Encoded(b"", b"", [])) for topic in ("results", "costs")]
    with pytest.raises(ProducerFenced):
        await send_batches(producer, records)
    producer.first.set_exception(ProducerFenced())
    await asyncio.wait([producer.first])
    del producer
    gc.collect()
    assert unheard == []
