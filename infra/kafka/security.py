"""What makes a node secure: the lines of its configuration, and its first users.

Clients and other brokers connect by TLS and SCRAM. Controllers speak to one another, and brokers
to them, on loopback by SASL PLAIN without TLS: SCRAM's users stand in the log that controllers
first have to agree on, and a controller cannot take over a renewed certificate while it runs
(KAFKA-20583). Nothing of it leaves the machine, and whoever has no password is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from millstream.infra.secure.credentials import (
    ADMIN,
    BROKER,
    MECHANISM,
    PROTOCOL,
    ROLES,
    Credentials,
)

__all__ = ["Security", "key_store_keys"]

_AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


@dataclass(frozen=True, slots=True)
class Security:
    """How the nodes of one data folder are secured."""

    credentials: Credentials

    def properties(self, node_id: int, listeners: Iterable[str]) -> dict[str, str]:
        """Give further lines of a node's configuration; `listeners` are those of its clients.

        Paths are relative to the node's folder, beside which `secure` stands.
        """
        password = self.credentials.password(BROKER)
        login = f'username="{BROKER}" password="{password}"'
        names = tuple(listeners)
        protocols = [*(f"{name}:{PROTOCOL}" for name in names), "CONTROLLER:SASL_PLAINTEXT"]
        settings = {
            "listener.security.protocol.map": ",".join(protocols),
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": (
                f'{_PLAIN} required {login} user_{BROKER}="{password}";'
            ),
            "ssl.keystore.type": "PEM",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": "../secure/ca.pem",
            "authorizer.class.name": _AUTHORIZER,
            "super.users": f"User:{BROKER};User:{ADMIN}",
        }
        scram = f"{MECHANISM.lower()}.sasl.jaas.config"
        for name in names:
            settings[f"listener.name.{name.lower()}.{scram}"] = f"{_SCRAM} required {login};"
        return settings | key_store_keys(node_id, names)

    def format_arguments(self) -> str:
        """Give what the storage tool is told beside its usual arguments, a line each.

        It reads them from a file: a command line is for everybody to see.
        """
        users = (BROKER, ADMIN, *ROLES)
        lines = (
            f"--add-scram\n{MECHANISM}=[name={user},password={self.credentials.password(user)}]\n"
            for user in users
        )
        return "".join(lines)


def key_store_keys(node_id: int, listeners: Iterable[str]) -> dict[str, str]:
    """Give the lines that name a node's key store; setting them again has the broker reread it."""
    return {
        f"listener.name.{name.lower()}.ssl.keystore.location": f"../secure/kafka-{node_id}.pem"
        for name in listeners
    }
