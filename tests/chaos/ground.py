"""What a drill runs on: brokers, Redis and the counting model, real processes with fresh data."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from millstream.infra.kafka.config import Listener
from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, KafkaNode, port_names
from millstream.infra.kafka.rotation import Rotation
from millstream.infra.kafka.security import Security
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.infra.ports import HOST, choose_ports
from millstream.infra.redis import RedisServer, find_redis_server
from millstream.infra.secure.certificates import now
from millstream.infra.secure.credentials import Credentials
from millstream.infra.state import LauncherState
from tests.chaos.model_server import PACE_S
from tests.chaos.proxy import Proxy, proxied
from tests.harness.worker_process import ROOT

MODEL_SERVER = "tests.chaos.model_server"
_READY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Ground:
    """Where things are. `far` is the way to the broker that leads through the proxy.

    `rotation` makes new certificates where brokers have any: they are secure, and `credentials` is
    the folder of the users' files.
    """

    kafka: KafkaCluster
    redis: RedisServer
    proxy: Proxy
    far: str
    model_url: str
    model_log: Path
    rotation: Rotation | None = None
    credentials: Path | None = None


@asynccontextmanager
async def ground(
    data: Path,
    brokers: int,
    *,
    model_pace_s: float = PACE_S,
    model: str = MODEL_SERVER,
    secure: bool = False,
) -> AsyncIterator[Ground]:
    """Start everything, stop everything. `secure`: with TLS, users and an authoriser."""
    async with AsyncExitStack() as stack:
        ports = choose_ports(("redis", "listener", "proxy"), {})
        credentials = Credentials.of(data, now()) if secure else None
        java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
        kafka = _cluster(data, brokers, ports, java, credentials)
        redis = RedisServer(data, ports["redis"], find_redis_server(), credentials)
        stack.push_async_callback(kafka.kill)
        stack.push_async_callback(redis.kill)
        await asyncio.gather(kafka.start(), redis.start())
        log = data / "model.log"
        yield Ground(
            kafka=kafka,
            redis=redis,
            proxy=await stack.enter_async_context(proxied(ports["proxy"], HOST, ports["listener"])),
            far=f"{HOST}:{ports['proxy']}",
            model_url=await stack.enter_async_context(model_server(log, model_pace_s, model)),
            model_log=log,
            rotation=None if credentials is None else Rotation(kafka, credentials, java),
            credentials=None if credentials is None else credentials.folder,
        )


def _cluster(
    data: Path,
    brokers: int,
    ports: dict[str, int],
    java: JavaSettings,
    credentials: Credentials | None,
) -> KafkaCluster:
    state = LauncherState.load(data, brokers).with_ports(port_names(brokers))
    security = None if credentials is None else Security(credentials)
    cluster = KafkaCluster.at(data, state.ports, state.cluster_id, java, brokers, security=security)
    if credentials is not None:
        for node in cluster.nodes:
            credentials.renew(node.spec.node_id, now())
    if brokers > 1:
        return cluster
    far = Listener("FAR", ports["listener"], ports["proxy"])
    spec = replace(cluster.nodes[0].spec, more=(far,))
    return KafkaCluster((KafkaNode(spec, data, state.cluster_id, java, security),))


@asynccontextmanager
async def model_server(
    log: Path, pace_s: float = PACE_S, program: str = MODEL_SERVER
) -> AsyncIterator[str]:
    """Start a model that logs each call and writes a word every `pace_s`; gives its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", program, str(log), str(pace_s),
        cwd=ROOT, stdin=DEVNULL, stdout=PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_READY_TIMEOUT_S):
            line = await process.stdout.readline()
        yield f"http://{HOST}:{json.loads(line)['port']}/v1"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
