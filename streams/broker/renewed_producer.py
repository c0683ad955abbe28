"""An idempotent producer that goes on behind a record that its broker has refused.

aiokafka numbers batches as it sends them. One that the broker refuses, as too large for instance,
leaves a gap in the numbers: every later batch for that partition is out of order, until the process
restarts (aio-libs/aiokafka#1017). So the producer is made anew, and what was sent behind the
refused record, none of which the broker has, is sent again in its order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber, ProducerClosed
from aiokafka.producer.message_accumulator import BatchBuilder

from millstream.streams.broker.failed_sends import hear

__all__ = ["IdempotentProducer", "RenewedProducer"]

log = structlog.get_logger(__name__)

_AGAIN_AFTER_S: Final = 0.5
_STOP_WAIT_S: Final = 5.0
_TRIES_MAX: Final = 5
"""How often a record is sent that is out of order, before its sender is told."""

_ANY_SIZE: Final = 1
"""An empty batch takes its first record whatever its size."""

_UNCOMPRESSED: Final = 0

Headers = Sequence[tuple[str, bytes | None]]


class IdempotentProducer(Protocol):
    """What is made anew: aiokafka's producer is one."""

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""

    async def stop(self) -> None:
        """Send what was handed over, disconnect."""

    async def send(self, *record: Any, headers: Any) -> asyncio.Future[Any]:
        """Hand a record over."""

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Hand a batch over."""


@dataclass(slots=True, eq=False)
class _Sent:
    """A record on its way, kept until it is acknowledged."""

    topic: str
    value: bytes | None
    key: bytes | None
    partition: int | None
    timestamp_ms: int | None
    headers: Headers
    acknowledged: asyncio.Future[Any] = field(default_factory=asyncio.Future)

    def batch(self) -> BatchBuilder:
        """Give it as a batch of its own."""
        batch = BatchBuilder(_ANY_SIZE, _UNCOMPRESSED)
        batch.append(
            timestamp=self.timestamp_ms, key=self.key, value=self.value, headers=list(self.headers)
        )
        batch.close()
        return batch

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits for it."""
        if not self.acknowledged.done():
            self.acknowledged.set_exception(error)
            hear(self.acknowledged)


class RenewedProducer:
    """Sends as aiokafka's producer does, each record once and in the order of its partition.

    A record that the broker refuses fails its own send, and no other: one that is too large for a
    topic stands in a batch of its own, as long as the topic takes the 16 KiB of aiokafka's batches.
    Until the producer is made anew, which waits for all that is on its way, sends wait.
    """

    def __init__(self, make: Callable[[], IdempotentProducer]) -> None:
        self._make = make
        self._producer = make()
        self._on_its_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._again: deque[_Sent] = deque()
        self._renewing: asyncio.Task[None] | None = None
        self._is_stopped = False
        self.renewals = 0
        """How often the producer was made anew."""

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what was handed over, disconnect."""
        self._is_stopped = True
        await self._producer.stop()
        # What was refused while that sent the rest.
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WAIT_S):
                await self._idle.wait()
        if self._renewing is not None:
            await asyncio.wait({self._renewing}, timeout=_STOP_WAIT_S)
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
        await self._producer.stop()

    async def send(  # noqa: PLR0917  aiokafka's order
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> asyncio.Future[Any]:
        """Hand a record over; gives a future that is done once it is acknowledged.

        Raises `MessageSizeTooLargeError` for what no request can hold; the future does for what
        the broker refuses. Both raise `KafkaError`.
        """
        sent = _Sent(topic, value, key, partition, timestamp_ms, headers or ())
        place = (topic, value, key, partition, timestamp_ms)
        # aiokafka appends to the list that it is given.
        await self._hand_over(
            lambda: self._producer.send(*place, headers=list(sent.headers)), sent, self._told
        )
        return sent.acknowledged

    async def send_and_wait(  # noqa: PLR0917  aiokafka's order
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> Any:
        """Send a record; return once it is acknowledged."""
        return await (await self.send(topic, value, key, partition, timestamp_ms, headers))

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Hand a batch over; one that was not written is not sent again: its records are unknown.

        Gives a future that raises `KafkaError`.
        """
        acknowledged: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def told(_sent: None, given: asyncio.Future[Any]) -> None:
            self._passed_on(acknowledged, given)

        await self._hand_over(
            lambda: self._producer.send_batch(batch, topic, partition=partition), None, told
        )
        return acknowledged

    async def _hand_over(self, send: Any, sent: Any, told: Any) -> None:
        while self._renewing is not None:
            await asyncio.shield(self._renewing)
        if self._is_stopped:
            raise ProducerClosed
        self._on_its_way += 1
        self._idle.clear()
        try:
            given: asyncio.Future[Any] = await send()
        except BaseException:
            self._is_done()
            raise
        given.add_done_callback(lambda one: told(sent, one))

    def _is_done(self) -> None:
        self._on_its_way -= 1
        if not self._on_its_way:
            self._idle.set()

    def _told(self, sent: _Sent, given: asyncio.Future[Any]) -> None:
        if not given.cancelled() and isinstance(given.exception(), OutOfOrderSequenceNumber):
            self._again.append(sent)
            self._is_done()
            self._renew_soon()
            return
        self._passed_on(sent.acknowledged, given)

    def _passed_on(self, acknowledged: asyncio.Future[Any], given: asyncio.Future[Any]) -> None:
        self._is_done()
        error = None if given.cancelled() else given.exception()
        if isinstance(error, KafkaError):
            # Whatever was refused, and why: its numbers are taken, and the broker never saw them.
            self._renew_soon()
        if acknowledged.done():
            return
        if given.cancelled():
            acknowledged.cancel()
        elif error is not None:
            acknowledged.set_exception(error)
            hear(acknowledged)
        else:
            acknowledged.set_result(given.result())

    def _renew_soon(self) -> None:
        if self._renewing is None and (self._again or not self._is_stopped):
            self._renewing = asyncio.create_task(self._renew(), name="producer renewal")

    async def _renew(self) -> None:
        try:
            # What is on its way elsewhere may be acknowledged still, and must not be overtaken.
            await self._idle.wait()
            await self._make_anew()
            while self._again:
                if not await self._sent_alone(self._again[0]):
                    await self._make_anew()
                self._again.popleft()
        except BaseException:
            for sent in self._again:
                sent.fail(ProducerClosed())
            self._again.clear()
            raise
        finally:
            self._renewing = None

    async def _sent_alone(self, sent: _Sent) -> bool:
        """Send a record by itself; tell whether the producer can go on."""
        for _ in range(_TRIES_MAX):
            try:
                if sent.partition is None:
                    given = await self._producer.send(
                        sent.topic, sent.value, sent.key, headers=list(sent.headers)
                    )
                else:
                    given = await self._producer.send_batch(
                        sent.batch(), sent.topic, partition=sent.partition
                    )
                told = await given
            except OutOfOrderSequenceNumber as error:
                last: KafkaError = error
                await self._make_anew()
            except KafkaError as error:
                sent.fail(error)
                return False
            else:
                if not sent.acknowledged.done():
                    sent.acknowledged.set_result(told)
                return True
        sent.fail(last)
        return True

    async def _make_anew(self) -> None:
        old = self._producer
        while True:
            new = self._make()
            try:
                await new.start()
            except KafkaError as error:
                log.warning("a producer could not be made anew", reason=repr(error))
                with suppress(KafkaError):
                    await new.stop()
                await asyncio.sleep(_AGAIN_AFTER_S)
            except BaseException:
                await new.stop()
                raise
            else:
                break
        self._producer = new
        self.renewals += 1
        log.warning("a producer was made anew behind a record that the broker refused")
        with suppress(KafkaError):
            await old.stop()
