"""The launcher's secure Kafka and Redis, and clients that connect to them as a role's user."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from tests.services.launcher import launched

ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class SecureServices:
    """Where they answer, and the folder of credentials that `infra.secure` describes."""

    kafka: str
    redis_url: str
    credentials: Path
    data: Path
    pids: Mapping[str, int]

    def properties_file(self, user: str) -> Path:
        """Give a user's `client.properties`, as Kafka's own tools take it."""
        return self.credentials / user / "client.properties"

    def password(self, user: str) -> str:
        """Give a user's password for Kafka, as it is now."""
        return (self.credentials / user / "password").read_text()

    def redis_password(self, user: str) -> str:
        """Give a user's password for Redis."""
        return (self.credentials / user / "redis-password").read_text()

    @property
    def authority(self) -> Path:
        """The certificate that is trusted."""
        return self.credentials / "ca.pem"

    def librdkafka(self, user: str, **more: Any) -> dict[str, Any]:
        """Give what a client of confluent-kafka takes to connect as a user."""
        return {
            "bootstrap.servers": self.kafka,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": self.password(user),
            "ssl.ca.location": str(self.authority),
            # It would write what is refused to standard error.
            "log_level": 0,
        } | more

    def aiokafka(self, user: str) -> dict[str, Any]:
        """Give what a client of aiokafka's takes to connect as a user."""
        return {
            "bootstrap_servers": self.kafka,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": user,
            "sasl_plain_password": self.password(user),
            "ssl_context": ssl.create_default_context(cafile=str(self.authority)),
        }

    def admin(self) -> AdminClient:
        """Give an administration client of the user who may do everything."""
        return AdminClient(self.librdkafka(ADMIN))


@contextmanager
def secure_services(data: Path) -> Iterator[SecureServices]:
    """Run `python -m millstream.infra up --secure` on `data`; give its services when they answer.

    Nobody but `admin` and the broker may do anything there: see `millstream topics acls`.
    """
    with launched(data, {"MILLSTREAM_KAFKA": "", "MILLSTREAM_REDIS_URL": ""}, "--secure") as ready:
        yield SecureServices(
            kafka=ready["kafka"],
            redis_url=ready["redis_url"],
            credentials=Path(ready["secure"]),
            data=data,
            pids=ready["pids"],
        )
