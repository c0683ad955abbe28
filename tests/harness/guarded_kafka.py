"""A broker of one's own that has an authoriser, and rules for its users, who are all anonymous."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiokafka.protocol.admin import CreateAclsRequest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, KafkaNode, port_names
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.infra.state import LauncherState
from millstream.streams.broker.clients import raw_client
from millstream.streams.broker.rights.needed import Resource
from millstream.streams.settings import Settings
from tests.services.users import plaintext

_AUTHORIZER = (
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("allow.everyone.if.no.acl.found", "true"),
)
_KINDS = {"topic": 2, "group": 3, "transactional-id": 5}
_LITERAL, _PREFIXED = 3, 4
_OPERATIONS = {
    "All": 2,
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Delete": 6,
    "Describe": 8,
    "DescribeConfigs": 10,
}
_DENY, _ALLOW = 2, 3
_EVERYBODY = "User:ANONYMOUS"
_ANSWER_MAX_S = 20


def guarded_kafka(settings: Settings, folder: Path) -> AbstractAsyncContextManager[Settings]:
    """Start a broker that lets everybody do what no rule is about; gives settings that name it."""
    return own_kafka(settings, folder, _AUTHORIZER)


@asynccontextmanager
async def own_kafka(
    settings: Settings, folder: Path, properties: tuple[tuple[str, str], ...]
) -> AsyncIterator[Settings]:
    """Start a broker with further lines of its configuration; gives settings that name it."""
    state = LauncherState.load(folder, 1).with_ports(port_names(1))
    java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
    (node,) = KafkaCluster.at(folder, state.ports, state.cluster_id, java, 1).nodes
    spec = replace(node.spec, properties=properties)
    node = KafkaNode(spec, folder, state.cluster_id, java)
    await node.start()
    try:
        yield plaintext(settings, kafka=spec.address)
    finally:
        await node.kill()


async def allow(
    settings: Settings, resource: Resource, operations: Iterable[str], user: str = _EVERYBODY
) -> None:
    """Allow operations on a resource, and so forbid all others on it."""
    for operation in operations:
        await _rule(settings, resource, operation, _ALLOW, user)


async def forbid(settings: Settings, resource: Resource, operation: str) -> None:
    """Allow all but one operation on a resource."""
    await _rule(settings, resource, "All", _ALLOW)
    await _rule(settings, resource, operation, _DENY)


def deny(settings: Settings, resource: Resource, operation: str) -> None:
    """Deny an operation, whatever else is allowed."""
    admin = _admin(settings)
    for made in admin.create_acls([_denial(resource, operation)]).values():
        made.result(_ANSWER_MAX_S)


def deny_no_more(settings: Settings, resource: Resource, operation: str) -> None:
    """Take back what `deny` did."""
    rule = _denial(resource, operation)
    wanted = AclBindingFilter(
        *(rule.restype, rule.name, rule.resource_pattern_type, rule.principal, rule.host),
        *(rule.operation, rule.permission_type),
    )
    admin = _admin(settings)
    for made in admin.delete_acls([wanted]).values():
        assert made.result(_ANSWER_MAX_S)


def _admin(settings: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": settings.kafka, "log_level": 0})


def _denial(resource: Resource, operation: str) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if resource.is_prefix else ResourcePatternType.LITERAL
    return AclBinding(
        ResourceType[resource.kind.replace("-", "_").upper()],
        resource.name,
        pattern,
        _EVERYBODY,
        "*",
        AclOperation[operation.upper()],
        AclPermissionType.DENY,
    )


async def _rule(
    settings: Settings, resource: Resource, operation: str, permission: int, user: str = _EVERYBODY
) -> None:
    pattern = _PREFIXED if resource.is_prefix else _LITERAL
    rule = (
        *(_KINDS[resource.kind], resource.name, pattern, user, "*"),
        *(_OPERATIONS[operation], permission),
    )
    client = raw_client(settings)
    await client.bootstrap()
    try:
        # Rules are the controller's, which is the only node.
        (node,) = client.cluster.brokers()
        answer = await client.send(node.nodeId, CreateAclsRequest(*rule))
        assert [error_code for error_code, _ in answer.creation_responses] == [0]
    finally:
        await client.close()
