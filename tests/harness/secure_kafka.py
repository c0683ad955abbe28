"""A broker of one's own with a listener for each way to secure it, and for ways to get it wrong.

Its users are `ada`, by SCRAM, PLAIN or a token. Its certificates are those of `authority`.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from json import dumps
from pathlib import Path
from time import time
from typing import Any

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, KafkaNode, port_names
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.infra.ports import HOST, choose_ports
from millstream.infra.state import LauncherState
from millstream.streams.settings import Settings
from tests.making.certificates import Authority, Pair
from tests.services.users import plaintext

__all__ = [
    "ODD_PASSWORD",
    "ODD_USER",
    "PASSWORD",
    "USER",
    "SecureKafka",
    "make_user",
    "secure_kafka",
    "token",
]

USER = "ada"
PASSWORD = "pass-word-of-ada"  # noqa: S105  the tests' own
ODD_USER, ODD_PASSWORD = "grüße", "pä=ss, wörd €\U0001f600"
"""Of a user of PLAIN whom ASCII has no signs for."""

REAUTH_MS = 4_000

_LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "SCRAM": "SASL_SSL",
    "CLEAR": "SASL_PLAINTEXT",
    "SHORT": "SASL_PLAINTEXT",
    "EXPIRED": "SSL",
    "FOREIGN": "SSL",
    "MISNAMED": "SSL",
    "MOVED": "PLAINTEXT",
}


@dataclass(frozen=True, slots=True)
class SecureKafka:
    """The broker: its listeners' addresses by name, and the authority of its certificates.

    `PLAIN` is without TLS and users. Of the others, `MUTUAL` wants certificates, `SCRAM` a user
    over TLS, `CLEAR` one without it, `SHORT` too, whose sessions end after 4 s; the certificates of
    `EXPIRED`, `FOREIGN` and `MISNAMED` are what they are called, and `MOVED` says that the broker
    is where nobody is.
    """

    addresses: Mapping[str, str]
    authority: Authority
    folder: Path
    node: KafkaNode

    def settings(self, base: Settings, listener: str, **security: Any) -> Settings:
        """Give settings for a listener; `security` are fields without their prefix `kafka_`."""
        given = {f"kafka_{name}": value for name, value in security.items()}
        base = plaintext(base, kafka=self.addresses[listener])
        kept = {name: getattr(base, name) for name in base.model_fields_set}
        return Settings(**{**kept, **given})

    def tls(self, **more: Any) -> dict[str, Any]:
        """Give what TLS needs, and more."""
        return {"security_protocol": "SSL", "ssl_ca_location": self.authority.path, **more}

    def scram(self, **more: Any) -> dict[str, Any]:
        """Give what SCRAM over TLS needs, and more."""
        user = {"sasl_username": USER, "sasl_password": PASSWORD, **more}
        if "sasl_password_file" in more:
            del user["sasl_password"]
        return self.tls(**{
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            **user,
        })  # fmt: skip

    def plain(self, **more: Any) -> dict[str, Any]:
        """Give what PLAIN without TLS needs, and more."""
        given = self.scram(**{"sasl_mechanism": "PLAIN", **more})
        del given["ssl_ca_location"]
        return {**given, "security_protocol": "SASL_PLAINTEXT"}


@asynccontextmanager
async def secure_kafka(folder: Path) -> AsyncIterator[SecureKafka]:
    """Start the broker, and make its user."""
    authority = Authority(folder / "tls")
    foreign = Authority(folder / "foreign", "foreign")
    pairs = {
        name: authority.sign("broker")
        for name, protocol in _LISTENERS.items()
        if protocol.endswith("SSL")
    }
    pairs["EXPIRED"] = authority.sign("expired", ends_in=timedelta(days=-1))
    pairs["FOREIGN"] = foreign.sign("broker")
    pairs["MISNAMED"] = authority.sign("misnamed", hosts=("kafka.example",))
    state = LauncherState.load(folder, 1).with_ports(port_names(1))
    ports = choose_ports(_LISTENERS, state.ports)
    java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
    (node,) = KafkaCluster.at(folder, state.ports, state.cluster_id, java, 1).nodes
    lines = tuple(_properties(node, ports, authority, pairs).items())
    node = KafkaNode(replace(node.spec, properties=lines), folder, state.cluster_id, java)
    await node.start()
    try:
        addresses = {name: f"{HOST}:{port}" for name, port in ports.items()}
        await asyncio.to_thread(make_user, node.spec.address, USER, PASSWORD)
        yield SecureKafka({**addresses, "PLAIN": node.spec.address}, authority, folder, node)
    finally:
        await node.kill()


def token(subject: str = USER, *, lasts_s: float = 600) -> str:
    """Give a token without a signature, as brokers take them where nothing else is set."""
    now = int(time())
    parts = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + lasts_s})
    return ".".join(_part(part) for part in parts) + "."


def _part(value: object) -> str:
    return urlsafe_b64encode(dumps(value).encode()).decode().rstrip("=")


def _properties(
    node: KafkaNode, ports: Mapping[str, int], authority: Authority, pairs: Mapping[str, Pair]
) -> dict[str, str]:
    (controller,) = (port for _, port in node.spec.controller_ports)
    own = {"CLIENT": f"CLIENT://{node.spec.address}"}
    more = {name: f"{name}://{HOST}:{port}" for name, port in ports.items()}
    kinds = {"CLIENT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **_LISTENERS}
    moved = {"MOVED": f"MOVED://kafka-0.nowhere.invalid:{ports['MOVED']}"}
    lines = {
        "listeners": ",".join({**own, "C": f"CONTROLLER://{HOST}:{controller}", **more}.values()),
        "advertised.listeners": ",".join({**own, **more, **moved}.values()),
        "listener.security.protocol.map": ",".join(f"{name}:{at}" for name, at in kinds.items()),
        "listener.name.short.connections.max.reauth.ms": str(REAUTH_MS),
    }
    for name, pair in pairs.items():
        of = f"listener.name.{name.lower()}"
        lines[f"{of}.ssl.keystore.type"] = "PEM"
        lines[f"{of}.ssl.keystore.location"] = str(pair.both)
    lines["listener.name.mutual.ssl.truststore.type"] = "PEM"
    lines["listener.name.mutual.ssl.truststore.location"] = str(authority.path)
    lines["listener.name.mutual.ssl.client.auth"] = "required"
    modules = "org.apache.kafka.common.security"
    plain = (
        f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}" '
        f'"user_{_escaped(ODD_USER)}"="{_escaped(ODD_PASSWORD)}";'
    )
    scram = f"{modules}.scram.ScramLoginModule required;"
    oauth = (
        f"{modules}.oauthbearer.OAuthBearerLoginModule required "
        'unsecuredLoginStringClaim_sub="broker";'
    )
    mechanisms = {
        "scram": {"SCRAM-SHA-512": scram, "SCRAM-SHA-256": scram, "OAUTHBEARER": oauth},
        "clear": {"PLAIN": plain, "OAUTHBEARER": oauth},
        "short": {"PLAIN": plain, "SCRAM-SHA-256": scram},
    }
    for name, modules_of in mechanisms.items():
        lines[f"listener.name.{name}.sasl.enabled.mechanisms"] = ",".join(modules_of)
        for mechanism, module in modules_of.items():
            lines[f"listener.name.{name}.{mechanism.lower()}.sasl.jaas.config"] = module
    return lines


def _escaped(text: str) -> str:
    """Give a text as Java's properties have it, which Kafka reads as Latin-1."""
    signs = text.encode("utf-16-be")
    codes = (int.from_bytes(signs[at : at + 2], "big") for at in range(0, len(signs), 2))
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


def make_user(address: str, user: str, password: str) -> None:
    """Make a user of SCRAM, over a listener that lets everybody do everything."""
    admin = AdminClient({"bootstrap.servers": address})
    kinds = (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
    for kind in kinds:
        how = ScramCredentialInfo(kind, 4096)
        wanted = UserScramCredentialUpsertion(user, how, password.encode())
        for future in admin.alter_user_scram_credentials([wanted]).values():
            future.result(30)
