"""Who may connect to the launcher's services, and by what: `<data>/secure/`, mode 0700.

    ca.pem, ca-key.pem          the authority that this folder's clients and brokers trust
    kafka-<id>.pem              a broker's key and certificate, renewed before it expires
    <user>/client.properties    what Kafka's own tools take as --command-config
    <user>/password             the same password by itself, for what reads secrets from files
    <user>/redis-password       for Redis, where the user is one of Redis's too

All files have mode 0600. Passwords stay over restarts; `rotation` makes new ones. No user but
`admin` has a right of its own: what each role needs is granted to it, as by `millstream topics
acls`.
"""

import datetime as dt
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.infra.ports import HOST
from millstream.infra.secure.certificates import Authority, is_due
from millstream.infra.secure.files import private_folder, write_private

__all__ = ["ADMIN", "BROKER", "MECHANISM", "PROTOCOL", "ROLES", "Credentials", "new_password"]

ROLES = ("upstream", "product", "client", "worker", "auditor", "operator")
"""Users who may do what is granted to them, and nothing else."""

ADMIN = "admin"
"""Who grants rights: a super user, whom no program of Millstream's runs as."""

BROKER = "broker"
"""As whom brokers and controllers connect to one another: a super user."""

PROTOCOL = "SASL_SSL"
MECHANISM = "SCRAM-SHA-512"

_PASSWORD_BYTES = 32
_HOSTS = (HOST, "localhost")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The certificates and passwords of one data folder; made by `Credentials.of`."""

    folder: Path

    @classmethod
    def of(cls, data: Path, now: dt.datetime) -> "Credentials":
        """Give a data folder's credentials; what is missing of them is made.

        Files that name other files are written each time, since the folder may have been moved.
        """
        folder = private_folder(data / "secure")
        Authority.of(folder, now)
        found = cls(folder)
        for user in (BROKER, ADMIN, *ROLES):
            private_folder(folder / user)
            for name in ("password", "redis-password"):
                if not (folder / user / name).exists():
                    write_private(folder / user / name, new_password())
            found.write_properties(user)
        return found

    def password(self, user: str) -> str:
        """Give a user's password for Kafka."""
        return (self.folder / user / "password").read_text(encoding="utf-8")

    def redis_password(self, user: str) -> str:
        """Give a user's password for Redis."""
        return (self.folder / user / "redis-password").read_text(encoding="utf-8")

    def properties_file(self, user: str) -> Path:
        """Give the path of a user's `client.properties`."""
        return self.folder / user / "client.properties"

    def write_properties(self, user: str) -> None:
        """Write a user's `client.properties` anew, from its password."""
        login = "org.apache.kafka.common.security.scram.ScramLoginModule"
        settings = {
            "security.protocol": PROTOCOL,
            "sasl.mechanism": MECHANISM,
            "sasl.jaas.config": (
                f'{login} required username="{user}" password="{self.password(user)}";'
            ),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.folder / "ca.pem"),
        }
        lines = (f"{key}={_escaped(value)}\n" for key, value in settings.items())
        write_private(self.properties_file(user), "".join(lines))

    def key_store(self, node_id: int) -> Path:
        """Give the path of a broker's key store."""
        return self.folder / f"kafka-{node_id}.pem"

    def renew(self, node_id: int, now: dt.datetime, *, always: bool = False) -> bool:
        """Give a broker a new certificate if it is time, or `always`; tells whether it has one."""
        at, authority = self.key_store(node_id), Authority.of(self.folder, now)
        if at.exists() and not always:
            store = at.read_text(encoding="utf-8")
            if authority.signed(store) and not is_due(store, now):
                return False
        write_private(at, authority.issue(f"kafka-{node_id}", _HOSTS, now))
        return True

    def client_options(self, user: str) -> dict[str, Any]:
        """Give what a client of aiokafka's takes to connect as a user."""
        return {
            "security_protocol": PROTOCOL,
            "sasl_mechanism": MECHANISM,
            "sasl_plain_username": user,
            "sasl_plain_password": self.password(user),
            "ssl_context": ssl.create_default_context(cafile=str(self.folder / "ca.pem")),
        }


def new_password() -> str:
    """Make a password of letters, digits, `-` and `_`, so that no file needs to quote it."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def _escaped(value: str) -> str:
    """Write a value as Java's properties have it: ASCII, with backslashes doubled."""
    units = value.encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    return "".join(
        "\\\\" if code == ord("\\") else chr(code) if 31 < code < 127 else f"\\u{code:04x}"  # noqa: PLR2004  printable ASCII
        for code in codes
    )
