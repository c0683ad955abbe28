"""How far brokers' clocks are from this machine's.

No request asks a broker for its time. But it stamps what is appended to a topic of `LogAppendTime`,
and says so in its answer: a record is written to a topic that is hardly read, in a transaction that
is then aborted. No reader of ours, which are all `read_committed`, sees it.

All processes share one transactional id. With an id of its own, each call would leave a coordinator
something to remember for seven days; with this one a transaction that was left open, because its
process was killed, is ended by the next one. Two at the same time fence each other, and try again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    KafkaError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from millstream.schemas.errors import Misconfigured, ServiceUnavailable
from millstream.schemas.topics import REDRIVES
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.settings import Settings

__all__ = ["BrokerClock", "broker_clocks"]

_TIMEOUT_S: Final = 10.0
"""What is left open is ended by its coordinator after so long."""

_ANSWER_MAX_S: Final = 4.0
_CLOSE_MAX_S: Final = 0.5
_FENCED_MAX: Final = 8
_FENCED_PAUSE_MAX_S: Final = 0.5
_ROUNDS: Final = 2
"""The first answer of a partition waits for more than the broker's append."""

_LOG_APPEND_TIME: Final = 1
_VALUE: Final = b"a look at the broker's clock: aborted"


@dataclass(frozen=True, slots=True)
class BrokerClock:
    """By how many seconds a broker's clock is ahead of the local one: at least, and at most."""

    broker: int
    least_s: float
    most_s: float

    @property
    def ahead_s(self) -> float:
        """What is certain: negative where it is behind, 0 where both may be the same."""
        return self.least_s if self.least_s > 0 else min(self.most_s, 0.0)

    def met(self, other: BrokerClock) -> BrokerClock:
        """Give what both allow; the narrower one where they contradict each other."""
        least, most = max(self.least_s, other.least_s), min(self.most_s, other.most_s)
        if least <= most:
            return BrokerClock(self.broker, least, most)
        return min(self, other, key=lambda one: one.most_s - one.least_s)


async def broker_clocks(
    settings: Settings, clock: Callable[[], float] = time.time
) -> tuple[BrokerClock, ...]:
    """Look at the clock of each broker that leads a partition of `redrives`, by number.

    Empty where that topic is not stamped by brokers. Raises `Misconfigured` where the topic does
    not exist or this user may not write to it, `ServiceUnavailable` where no broker answers.
    """
    topic = settings.topic(REDRIVES.name)
    counts = await partition_counts(settings, [topic])  # a producer would create one that lacks
    for left in reversed(range(_FENCED_MAX)):
        try:
            found = await _look(settings, topic, counts[topic], clock)
        except ProducerFenced as error:
            if not left:
                message = "others look at the brokers' clocks at the same time"
                raise ServiceUnavailable(message) from error
            # Unlike pauses: two that fenced each other would do so again.
            await asyncio.sleep(random.uniform(0, _FENCED_PAUSE_MAX_S))  # noqa: S311  no secret
        except TopicAuthorizationFailedError as error:
            message = f"this user may not write to {topic}"
            raise Misconfigured(message) from error
        except TransactionalIdAuthorizationFailed as error:
            message = f"this user may not use the transactional id {_transactional_id(settings)}"
            raise Misconfigured(message) from error
        except (KafkaError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_ANSWER_MAX_S:.0f} s"
            message = f"Kafka at {settings.kafka} takes no record: {reason}"
            raise ServiceUnavailable(message) from error
        else:
            return tuple(sorted(found.values(), key=lambda one: one.broker))
    raise AssertionError  # the last try returns or raises


def _transactional_id(settings: Settings) -> str:
    return f"{settings.namespace}-doctor"


async def _look(
    settings: Settings, topic: str, count: int, clock: Callable[[], float]
) -> Mapping[int, BrokerClock]:
    producer = transactional_producer(settings, _transactional_id(settings), timeout_s=_TIMEOUT_S)
    try:
        async with asyncio.timeout(_ANSWER_MAX_S):
            await producer.start()
            await producer.partitions_for(topic)
            await producer.begin_transaction()
            found = await _ask(producer, topic, count, clock)
            await producer.abort_transaction()
            return found
    finally:
        # What failed leaves its transaction to the coordinator, or to the next one that looks.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_MAX_S):
                await producer.stop()


async def _ask(
    producer: AIOKafkaProducer, topic: str, count: int, clock: Callable[[], float]
) -> Mapping[int, BrokerClock]:
    leaders: dict[int, int] = {}
    for partition in range(count):
        node = producer.client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if node is not None and node >= 0:
            leaders.setdefault(int(node), partition)
    found: dict[int, BrokerClock] = {}
    for _ in range(_ROUNDS):
        for node, partition in leaders.items():
            before_s = clock()
            written = await producer.send_and_wait(topic, _VALUE, partition=partition)
            after_s = clock()
            if written.timestamp_type != _LOG_APPEND_TIME:
                continue
            # The stamp is cut to whole milliseconds.
            stamped_s = written.timestamp / 1000
            seen = BrokerClock(node, stamped_s - after_s, stamped_s + 0.001 - before_s)
            found[node] = found[node].met(seen) if node in found else seen
    return found
