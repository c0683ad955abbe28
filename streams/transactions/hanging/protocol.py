"""Requests about transactions that aiokafka does not have, as Kafka's `clients/` defines them.

KIP-664 brought the first two, for tools that find hanging transactions; the third is what a
coordinator sends to the leaders of a transaction's partitions. Named as aiokafka names its own.
"""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

__all__ = ["DescribeProducersRequest", "DescribeTransactionsRequest", "WriteTxnMarkersRequest"]

_TOPICS = CompactArray(
    ("name", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
)
_NO_TAGS: dict[int, bytes] = {}

Topics = list[tuple[str, list[int]]]
"""Partitions by topic."""


def _by_partition(*fields: tuple[str, Any]) -> Any:
    """Give the type of an array that says `fields` of each partition, by topic."""
    partition = (("partition", Int32), *fields, ("tags", TaggedFields))
    return CompactArray(
        ("name", CompactString("utf-8")),
        ("partitions", CompactArray(*partition)),
        ("tags", TaggedFields),
    )


def _tagged(topics: Topics) -> list[Any]:
    return [(name, partitions, _NO_TAGS) for name, partitions in topics]


class DescribeProducersResponse_v0(Response):  # type: ignore[misc]  # noqa: N801
    """The producers that a leader has state of."""

    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            _by_partition(
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                (
                    "producers",
                    CompactArray(
                        ("producer_id", Int64),
                        ("producer_epoch", Int32),
                        ("last_sequence", Int32),
                        ("last_timestamp", Int64),
                        ("coordinator_epoch", Int32),
                        ("transaction_start_offset", Int64),
                        ("tags", TaggedFields),
                    ),
                ),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeProducersRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Asks the leader of partitions."""

    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeProducersResponse_v0
    SCHEMA = Schema(("topics", _TOPICS), ("tags", TaggedFields))


class DescribeProducersRequest(Request[DescribeProducersRequest_v0]):  # type: ignore[misc]
    """Which producers wrote to partitions, and where their open transactions begin."""

    API_KEY = 61

    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[Any]) -> Any:
        """Give the request of this version."""
        return request_struct_class(_tagged(self._topics), _NO_TAGS)


class DescribeTransactionsResponse_v0(Response):  # type: ignore[misc]  # noqa: N801
    """What a coordinator has in hand: of a transaction that ends, what has no marker yet."""

    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("state", CompactString("utf-8")),
                ("timeout_ms", Int32),
                ("start_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("topics", _TOPICS),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTransactionsRequest_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Asks the coordinator of transactional ids."""

    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeTransactionsResponse_v0
    SCHEMA = Schema(
        ("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields)
    )


class DescribeTransactionsRequest(Request[DescribeTransactionsRequest_v0]):  # type: ignore[misc]
    """What becomes of the transactions of transactional ids."""

    API_KEY = 65

    def __init__(self, transactional_ids: list[str]) -> None:
        self._transactional_ids = transactional_ids

    def build(self, request_struct_class: type[Any]) -> Any:
        """Give the request of this version."""
        return request_struct_class(self._transactional_ids, _NO_TAGS)


class WriteTxnMarkersResponse_v1(Response):  # type: ignore[misc]  # noqa: N801
    """How it went, by partition."""

    API_KEY = 27
    API_VERSION = 1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("topics", _by_partition(("error_code", Int16))),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class WriteTxnMarkersRequest_v1(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Version 1 is the oldest that Kafka 4 takes."""

    API_KEY = 27
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = WriteTxnMarkersResponse_v1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("is_commit", Boolean),
                ("topics", _TOPICS),
                ("coordinator_epoch", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class WriteTxnMarkersRequest(Request[WriteTxnMarkersRequest_v1]):  # type: ignore[misc]
    """Ends a transaction on one partition. It needs the right `Alter` on the cluster."""

    API_KEY = 27

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        producer_id: int,
        producer_epoch: int,
        coordinator_epoch: int,
        is_commit: bool,
    ) -> None:
        self._marker = (
            producer_id,
            producer_epoch,
            is_commit,
            _tagged([(topic, [partition])]),
            coordinator_epoch,
            _NO_TAGS,
        )

    def build(self, request_struct_class: type[Any]) -> Any:
        """Give the request of this version."""
        return request_struct_class([self._marker], _NO_TAGS)
