"""`python -m millstream.infra rotate`: new certificates and passwords for a launcher that runs."""

from dataclasses import dataclass
from pathlib import Path

from millstream.infra.errors import NotRotated
from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, brokers_seen
from millstream.infra.kafka.rotation import Rotation
from millstream.infra.kafka.security import Security
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.infra.secure.certificates import now
from millstream.infra.secure.credentials import ROLES, Credentials
from millstream.infra.state import LauncherState

__all__ = ["Rotated", "rotate"]


@dataclass(frozen=True, slots=True)
class Rotated:
    """Names of the nodes that have new certificates, and of the users with new passwords."""

    nodes: tuple[str, ...]
    users: tuple[str, ...] = ()


async def rotate(data: Path, *, with_passwords: bool) -> Rotated:
    """Rotate for the launcher that runs on a data folder. Raises `NotRotated` if none does."""
    state = LauncherState.load(data, None)
    if not state.secure:
        message = f"{data} holds no cluster with TLS: `python -m millstream.infra up --secure`"
        raise NotRotated(message)
    credentials = Credentials.of(data, now())
    java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
    security = Security(credentials)
    cluster = KafkaCluster.at(
        data, state.ports, state.cluster_id, java, state.brokers, security=security
    )
    if not await brokers_seen(cluster.bootstrap, security):
        message = f"no broker of {data} answers: start it, by `up --secure`, and try again"
        raise NotRotated(message)
    rotation = Rotation(cluster, credentials, java)
    nodes = await rotation.certificates(now(), always=True)
    users = ROLES if with_passwords else ()
    await rotation.passwords(users)
    return Rotated(nodes, users)
