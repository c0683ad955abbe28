"""What brokers say of transactions: leaders what is open, coordinators what they have in hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedVersionError,
    for_code,
)

from millstream.streams.broker.raw_broker import RawBroker
from millstream.streams.transactions.hanging.protocol import (
    DescribeProducersRequest,
    DescribeTransactionsRequest,
    Topics,
)

__all__ = [
    "DENIED",
    "NEEDED",
    "OpenTransaction",
    "TransactionDescription",
    "describe_transaction",
    "open_transactions",
]

DENIED = (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedVersionError,
)
"""What brokers answer who may not ask, or what they do not know: asking again does not mend it."""

NEEDED = (
    "it takes a broker that knows DescribeProducers and DescribeTransactions (Kafka 3.0), and the "
    "rights `Read` on the topics of the namespace and `Describe` on its transactional ids"
)

_NONE = -1
_GOES_ON = "Ongoing"


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """An open transaction on one partition, as its leader describes it."""

    where: TopicPartition
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    start_offset: int

    def __str__(self) -> str:
        """Tell where it is and whose."""
        return (
            f"the transaction on {self.where.topic}-{self.where.partition} "
            f"(producer {self.producer_id}, from offset {self.start_offset})"
        )


@dataclass(frozen=True, slots=True)
class TransactionDescription:
    """What the coordinator of a transactional id says of its transaction.

    `partitions` are those that it has yet to mark; while it `goes_on`, those that were added to it.
    """

    transactional_id: str
    producer_id: int
    partitions: frozenset[TopicPartition]
    goes_on: bool


async def open_transactions(
    raw: RawBroker, partitions: Iterable[TopicPartition]
) -> list[OpenTransaction]:
    """Give what is open on partitions. Raises `KafkaError`; it needs the right `Read` on them."""
    by_leader: dict[int, list[TopicPartition]] = defaultdict(list)
    for where in partitions:
        by_leader[raw.leader(where)].append(where)
    found = []
    for node, led in by_leader.items():
        response = await raw.ask(node, DescribeProducersRequest(_by_topic(led)))
        for topic, described, _ in response.topics:
            for partition, error_code, _, producers, _ in described:
                where = TopicPartition(topic, partition)
                if error_code:
                    raise for_code(error_code)(f"producers of {topic}-{partition}")
                found += [
                    OpenTransaction(where, producer_id, epoch, coordinator_epoch, start)
                    for producer_id, epoch, _, _, coordinator_epoch, start, _ in producers
                    if start != _NONE
                ]
    return found


async def describe_transaction(raw: RawBroker, transactional_id: str) -> TransactionDescription:
    """Ask the coordinator of a transactional id, which says so if it is not, or not yet.

    Raises `KafkaError`; it needs the right `Describe` on the id.
    """
    node = await raw.coordinator(transactional_id)
    response = await raw.ask(node, DescribeTransactionsRequest([transactional_id]))
    ((error_code, _, state, _, _, producer_id, _, topics, _),) = response.transactions
    if error_code:
        raise for_code(error_code)(f"the transaction of {transactional_id}")
    return TransactionDescription(
        transactional_id,
        producer_id,
        frozenset(
            TopicPartition(topic, partition)
            for topic, partitions, _ in topics
            for partition in partitions
        ),
        goes_on=state == _GOES_ON,
    )


def _by_topic(partitions: Iterable[TopicPartition]) -> Topics:
    found: dict[str, list[int]] = defaultdict(list)
    for where in partitions:
        found[where.topic].append(where.partition)
    return list(found.items())
