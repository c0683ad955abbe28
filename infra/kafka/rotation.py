"""New certificates and new passwords for brokers that run.

A broker rereads its key store when the setting that names it is set again, even to the same value
(KAFKA-14136): connections that are open stay, new ones see the new certificate. A password counts
for new connections as soon as the brokers have it, and its file is written then.
"""

import datetime as dt
import os
from collections.abc import Iterable

from millstream.infra.errors import NotReady, NotRotated
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, KafkaNode
from millstream.infra.kafka.security import key_store_keys
from millstream.infra.processes.process import ChildProcess, Command, log_tail
from millstream.infra.processes.waiting import eventually
from millstream.infra.secure.certificates import is_shown
from millstream.infra.secure.credentials import ADMIN, MECHANISM, Credentials, new_password
from millstream.infra.secure.files import write_private

__all__ = ["Rotation"]

_TAKE_OVER_S = 20.0
_TOOL = "kafka.admin.ConfigCommand"


class Rotation:
    """Rotates what the nodes of one cluster and their clients identify themselves by."""

    def __init__(self, cluster: KafkaCluster, credentials: Credentials, java: JavaSettings) -> None:
        """Nothing is written or asked yet."""
        self._cluster = cluster
        self._credentials = credentials
        self._java = java
        self._written: dict[int, KafkaNode] = {}

    @property
    def nodes(self) -> tuple[KafkaNode, ...]:
        """The nodes whose certificates are rotated."""
        return self._cluster.nodes

    async def certificates(self, now: dt.datetime, *, always: bool = False) -> tuple[str, ...]:
        """Renew the certificates of which less than a third of their life is left, or all.

        Gives the names of the nodes that have taken over a new one. Raises `NotRotated`; what was
        written then is taken over by the next call, or when its node starts.
        """
        for node in self._cluster.nodes:
            if self._credentials.renew(node.spec.node_id, now, always=always):
                self._written[node.spec.node_id] = node
        renewed = []
        for node_id, node in tuple(self._written.items()):
            await self._alter("brokers", str(node_id), key_store_keys(node_id, node.spec.listeners))
            await self._taken_over(node)
            del self._written[node_id]
            renewed.append(node.name)
        return tuple(renewed)

    async def passwords(self, users: Iterable[str]) -> None:
        """Give users new passwords for Kafka; their files hold them when it returns.

        Raises `NotRotated`; a user whose password was not changed keeps the old one, in its file
        and at the brokers.
        """
        for user in users:
            password = new_password()
            await self._alter("users", user, {MECHANISM: f"password={password}"})
            write_private(self._credentials.folder / user / "password", password)
            self._credentials.write_properties(user)

    async def _taken_over(self, node: KafkaNode) -> None:
        """Wait until a node shows its new certificate: it is told of settings later."""
        folder = self._credentials.folder
        store = self._credentials.key_store(node.spec.node_id).read_text(encoding="utf-8")

        async def is_taken_over() -> bool:
            return await is_shown(node.spec.address, folder, store)

        try:
            await eventually(
                is_taken_over, what=f"the new certificate of {node.name}", timeout_s=_TAKE_OVER_S
            )
        except NotReady as error:
            raise NotRotated(str(error)) from error

    async def _alter(self, kind: str, name: str, settings: dict[str, str]) -> None:
        """Have Kafka's own tool change settings; they are in a file, for they may be secrets."""
        folder = self._credentials.folder
        own = f"rotation-{os.getpid()}"
        given, log = folder / f"{own}.properties", folder / f"{own}.log"
        write_private(given, "".join(f"{key}={value}\n" for key, value in settings.items()))
        try:
            await self._run(
                Command(
                    name=f"changing {kind} {name}",
                    argv=self._java.command(
                        _TOOL,
                        *("--bootstrap-server", self._cluster.bootstrap),
                        *("--command-config", str(self._credentials.properties_file(ADMIN))),
                        *("--entity-type", kind, "--entity-name", name),
                        *("--alter", "--add-config-file", str(given)),
                    ),
                    folder=folder,
                    log=log,
                )
            )
        except NotRotated as error:
            told = str(error)
            for secret in settings.values():
                told = told.replace(secret, "…")
            raise NotRotated(told) from None
        finally:
            given.unlink()
            # The tool repeats what it was given.
            log.unlink(missing_ok=True)

    @staticmethod
    async def _run(command: Command) -> None:
        child = await ChildProcess.start(command)
        try:
            code = await child.wait()
        finally:
            await child.kill()
        if code != 0:
            message = f"{command.name} failed. Kafka's tool says:\n{log_tail(command.log)}"
            raise NotRotated(message)
