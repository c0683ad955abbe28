"""What this user may do on Kafka, as the brokers themselves say.

Topics and groups are described with the operations that are allowed (KIP-430). Of transactional ids
no broker says so: it is asked to end a transaction that there is not, which it first checks the
right for, and then refuses.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.client import CoordinationType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    IncompatibleBrokerVersion,
    KafkaError,
    NotCoordinatorForGroupError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.transaction import EndTxnRequest

from millstream.streams.broker.clients import not_reached, raw_client
from millstream.streams.broker.recovery import RecoveringClient
from millstream.streams.broker.rights.needed import Kind, Resource
from millstream.streams.broker.rights.protocol import (
    AuthorizedGroupsRequest,
    AuthorizedTopicsRequest,
)
from millstream.streams.settings import Settings

__all__ = ["NOT_TOLD", "Granted", "granted", "granted_to", "operations_of"]

NOT_TOLD = -(1 << 31)
"""What a broker answers that was not asked, or does not say: no operation is then known."""

_BITS = {
    3: "Read",
    4: "Write",
    5: "Create",
    6: "Delete",
    7: "Alter",
    8: "Describe",
    10: "DescribeConfigs",
    11: "AlterConfigs",
}

_ANSWER_MAX_S = 5.0
_LOOKUPS_MAX = 20
_LOOKUP_PAUSE_S = 0.1
_UNKNOWN_TOPIC = 3
_TOPIC_DENIED = TopicAuthorizationFailedError.errno
_GROUP_DENIED = GroupAuthorizationFailedError.errno
_TRANSACTIONAL_ID_DENIED = TransactionalIdAuthorizationFailed.errno
_NO_PRODUCER = -1
_UNSETTLED = (
    GroupLoadInProgressError.errno,
    GroupCoordinatorNotAvailableError.errno,
    NotCoordinatorForGroupError.errno,
)

Granted = Mapping[Resource, frozenset[str] | None]


def operations_of(bits: int) -> frozenset[str] | None:
    """Read a broker's answer, an operation a bit; `None` where it does not say."""
    if bits == NOT_TOLD:
        return None
    return frozenset(name for bit, name in _BITS.items() if bits >> bit & 1)


async def granted(settings: Settings, resources: Collection[Resource]) -> Granted:
    """Give the operations that are allowed on each resource, `None` where no broker says.

    A topic that does not exist, and whose absence this user may see, is left out: nobody can say.
    Raises `ServiceUnavailable` if Kafka does not answer.
    """
    client = raw_client(settings)
    try:
        async with asyncio.timeout(_ANSWER_MAX_S):
            await client.bootstrap()
            return await granted_to(client, resources)
    except (KafkaError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    finally:
        await asyncio.shield(client.close())


async def granted_to(client: RecoveringClient, resources: Collection[Resource]) -> Granted:
    """Give what `granted` does, to the user of a client that is connected. Raises `KafkaError`."""
    by_kind: dict[Kind, list[Resource]] = defaultdict(list)
    for resource in resources:
        by_kind[resource.kind].append(resource)
    found = await _topics(client, by_kind["topic"])
    for group in by_kind["group"]:
        found[group] = await _group(client, group.name)
    for one in by_kind["transactional-id"]:
        name = f"{one.name}doctor" if one.is_prefix else one.name
        found[one] = await _transactional_id(client, name)
    return found


async def _topics(
    client: RecoveringClient, topics: Collection[Resource]
) -> dict[Resource, frozenset[str] | None]:
    if not topics:
        return {}
    request = AuthorizedTopicsRequest([topic.name for topic in topics])
    response = await _ask(client, client.get_random_node(), request)
    if response is None:
        return dict.fromkeys(topics)
    found: dict[Resource, frozenset[str] | None] = {}
    for told in response.to_object()["topics"]:
        topic, code = Resource("topic", told["topic"]), told["error_code"]
        if code == _TOPIC_DENIED:
            found[topic] = frozenset()
        elif code != _UNKNOWN_TOPIC:
            # Others, as that it has no leader now, say nothing of rights.
            found[topic] = operations_of(told["authorized_operations"])
    return found


async def _group(client: RecoveringClient, name: str) -> frozenset[str] | None:
    request = AuthorizedGroupsRequest([name])
    response, code = await _coordinated(client, CoordinationType.GROUP, name, request)
    if code == _GROUP_DENIED:
        return frozenset()
    if response is None or code:
        return None
    (told,) = response.to_object()["groups"]
    return operations_of(told["authorized_operations"])


async def _transactional_id(client: RecoveringClient, name: str) -> frozenset[str] | None:
    # No producer has this number: what the id's own one does at the same time stays untouched.
    request = EndTxnRequest(name, _NO_PRODUCER, _NO_PRODUCER, transaction_result=False)
    response, code = await _coordinated(client, CoordinationType.TRANSACTION, name, request)
    if code == _TRANSACTIONAL_ID_DENIED:
        return frozenset() if response is None else frozenset({"Describe"})
    # The right is checked first; whatever the request is refused for then, the right is there.
    return None if response is None or code in _UNSETTLED else frozenset({"Describe", "Write"})


async def _coordinated(
    client: RecoveringClient, kind: CoordinationType, name: str, request: Any
) -> tuple[Any | None, int]:
    """Ask a coordinator; gives its answer, if it could be asked, and the error's code, 0 for none.

    A new cluster makes the coordinators' topics when it is first asked for one, so it is asked for
    some seconds.
    """
    code, response = 0, None
    for _ in range(_LOOKUPS_MAX):
        try:
            node = await client.coordinator_lookup(kind, name)
        except (GroupAuthorizationFailedError, TransactionalIdAuthorizationFailed) as denied:
            return None, int(denied.errno)
        except GroupCoordinatorNotAvailableError:
            code = GroupCoordinatorNotAvailableError.errno
        else:
            response = await _ask(client, node, request)
            if response is None:
                return None, 0
            code = _code_of(response)
        if code not in _UNSETTLED:
            break
        await asyncio.sleep(_LOOKUP_PAUSE_S)
    return response, code


def _code_of(response: Any) -> int:
    if hasattr(response, "groups"):
        return int(response.groups[0][0])
    return int(response.error_code)


async def _ask(client: RecoveringClient, node: Any, request: Any) -> Any | None:
    """Send a request; gives `None` where the broker knows no version of it that says of rights."""
    try:
        return await client.send(node, request)
    except (IncompatibleBrokerVersion, NotImplementedError):
        return None
