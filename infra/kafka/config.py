"""The text of a node's configuration files. Paths in them are relative to the node's folder.

Relative, because Kafka splits `log.dirs` at commas and reads backslashes in it: so any data folder
does, and it may be moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from millstream.infra.ports import HOST

__all__ = ["LOG4J", "Listener", "NodeSpec", "server_properties"]

_SYSTEM_TOPIC_PARTITIONS = 8

LOG4J = """\
status = error
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{ISO8601} %-5p %m (%c{1})%n
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = stdout
"""


@dataclass(frozen=True, slots=True)
class Listener:
    """A further port for clients, who are told to connect to `advertised_port`.

    So a client that first connects to a proxy there stays behind it. `name` is in capitals.
    """

    name: str
    port: int
    advertised_port: int


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: its id (1, 2, …), its clients' port, and every node's controller port by id.

    `properties` are further lines of its configuration, by key.
    """

    node_id: int
    port: int
    controller_ports: tuple[tuple[int, int], ...]
    more: tuple[Listener, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def listeners(self) -> tuple[str, ...]:
        """Names of the listeners that clients connect to."""
        return ("CLIENT", *(one.name for one in self.more))

    @property
    def address(self) -> str:
        """Where its clients connect, as host:port."""
        return f"{HOST}:{self.port}"

    @property
    def nodes(self) -> int:
        """How many nodes the cluster has."""
        return len(self.controller_ports)


def server_properties(spec: NodeSpec, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """Write the node's `server.properties`: broker and controller in one process.

    `more` are lines that go before those of the same keys here; those of the spec go before all.
    """
    replicas = min(spec.nodes, 3)
    in_sync = max(1, replicas - 1)
    voters = ",".join(f"{node_id}@{HOST}:{port}" for node_id, port in spec.controller_ports)
    controller_port = dict(spec.controller_ports)[spec.node_id]
    advertised = [f"CLIENT://{spec.address}"]
    advertised += [f"{one.name}://{HOST}:{one.advertised_port}" for one in spec.more]
    listeners = [f"CLIENT://{spec.address}", f"CONTROLLER://{HOST}:{controller_port}"]
    listeners += [f"{one.name}://{HOST}:{one.port}" for one in spec.more]
    names = ["CLIENT", "CONTROLLER", *(one.name for one in spec.more)]
    settings = {
        "process.roles": "broker,controller",
        "node.id": spec.node_id,
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        "listeners": ",".join(listeners),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        "log.dirs": "log",
        # A topic that nobody declared is a mistake, not a wish.
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": _SYSTEM_TOPIC_PARTITIONS,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": _SYSTEM_TOPIC_PARTITIONS,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": 1,
        # A lone developer's group has no members to wait for.
        "group.initial.rebalance.delay.ms": 0,
        # Sized for a small machine: the default cleaner buffer alone is 128 MiB of heap.
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
        **more,
        **dict(spec.properties),
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
