"""Requests that ask what this user may do, as Kafka's `clients/` defines them (KIP-430).

aiokafka's own do not go so far: its `MetadataRequest` ends at version 5, and its
`DescribeGroupsRequest_v3` reads the answer as that of version 2. Named as aiokafka names its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

__all__ = ["AuthorizedGroupsRequest", "AuthorizedTopicsRequest"]


class AuthorizedTopicsResponse_v8(Response):  # type: ignore[misc]  # noqa: N801
    """Topics, with the operations that are allowed as bits."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(
                ("node_id", Int32),
                ("host", String("utf-8")),
                ("port", Int32),
                ("rack", String("utf-8")),
            ),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("authorized_operations", Int32),
    )


class AuthorizedTopicsRequest_v8(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Asks any broker; creates no topic."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = AuthorizedTopicsResponse_v8
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class AuthorizedTopicsRequest(Request[AuthorizedTopicsRequest_v8]):  # type: ignore[misc]
    """What this user may do with topics."""

    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[Any]) -> Any:
        """Give the request of this version."""
        return request_struct_class(self._topics, False, False, True)


class AuthorizedGroupsRequest_v3(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Asks the coordinator of groups."""

    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class AuthorizedGroupsRequest(Request[AuthorizedGroupsRequest_v3]):  # type: ignore[misc]
    """What this user may do with groups."""

    API_KEY = 15

    def __init__(self, groups: Collection[str]) -> None:
        self._groups = list(groups)

    def build(self, request_struct_class: type[Any]) -> Any:
        """Give the request of this version."""
        return request_struct_class(self._groups, True)
