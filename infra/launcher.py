"""Starts Kafka and Redis together, keeps them running, stops them.

    hold the data folder ─> jars in the cache ─> choose ports ─┬─> kafka ─┬─> endpoints ─> keep
         (secure: ─> certificates and passwords)               └─> redis ─┘
Whatever way it ends, every process it started has ended before it does.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from rich.console import Console

from millstream.infra.errors import DownloadFailed, NotRotated
from millstream.infra.hold import endpoints_file
from millstream.infra.kafka.jars import class_path, missing, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, brokers_seen, port_names
from millstream.infra.kafka.rotation import Rotation
from millstream.infra.kafka.security import Security
from millstream.infra.paths import LOCK_FILE, ExternalServices, cache_folder
from millstream.infra.ports import listens
from millstream.infra.processes.keeping import KeptService, Restarts, keep
from millstream.infra.processes.process import guarded
from millstream.infra.processes.waiting import eventually, together
from millstream.infra.redis import (
    RedisServer,
    addresses_of,
    find_redis_server,
    redis_answers,
    without_password,
    without_user,
)
from millstream.infra.secure.certificates import now
from millstream.infra.secure.credentials import Credentials
from millstream.infra.state import LauncherState, write_whole

__all__ = ["Endpoints", "Launcher"]

_EXTERNAL_TIMEOUT_S = 15.0
_RENEWAL_S = 3600.0
# Short before anyone can have written anything, long enough afterwards for a clean shutdown.
_ABANDON_GRACE_S = 2.0
_STOP_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What a client needs, and what a test may signal: `pids` by service name.

    `secure` is the folder of credentials, see `infra.secure.credentials`; `None` where everybody
    may do everything.
    """

    kafka: str
    redis_url: str
    brokers: int
    data: str
    launcher_pid: int
    pids: dict[str, int]
    seconds: float
    secure: str | None = None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


class Service(Protocol):
    """What the launcher needs of a service."""

    @property
    def name(self) -> str:
        """Its name for a person."""
        ...

    @property
    def parts(self) -> Sequence[KeptService]:
        """What of it ends, and is started again, by itself."""
        ...

    @property
    def pids(self) -> dict[str, int]:
        """Ids of its running processes, by name."""
        ...

    async def start(self) -> None:
        """Start it and wait until it answers."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Stop it within `grace_s`."""
        ...

    async def kill(self) -> None:
        """SIGKILL all of it."""
        ...


class Launcher:
    """The services of one data folder; the caller holds the folder (see `infra.hold`)."""

    def __init__(
        self,
        data: Path,
        brokers: int | None,
        external: ExternalServices,
        console: Console,
        *,
        secure: bool | None = None,
    ) -> None:
        """`brokers` None means as many as the folder has, 1 in a new one; so with `secure`."""
        self._data = data
        self._brokers = brokers
        self._external = external
        self._secure = secure
        self._rotation: Rotation | None = None
        self._console = console
        self._services: list[Service] = []
        self._ready = False

    @property
    def started(self) -> bool:
        """True once there may be something to stop."""
        return bool(self._services)

    async def start(self) -> Endpoints:
        """Start what the environment does not name, check what it does, write `endpoints.json`."""
        began = time.monotonic()
        state = LauncherState.load(self._data, self._brokers, secure=self._secure)
        if self._external.kafka is None:
            await self._fetch_jars()
        state = state.with_ports(self._port_names(state.brokers))
        state.save(self._data)
        # Users are the launcher's Kafka's: beside one that the environment names, nobody has any.
        is_secure = state.secure and self._external.kafka is None
        credentials = Credentials.of(self._data, now()) if is_secure else None
        kafka, redis_url = self._plan(state, credentials)
        await together(
            *(self._start_one(service) for service in self._services),
            *(self._check_external(name, answers) for name, answers in self._external_checks()),
        )
        seen: Sized = range(state.brokers)
        if self._external.kafka is not None:
            seen = await self._external_brokers(kafka)
        endpoints = Endpoints(
            kafka=kafka,
            redis_url=redis_url,
            brokers=len(seen),
            data=str(self._data),
            launcher_pid=os.getpid(),
            pids=self._pids(),
            seconds=round(time.monotonic() - began, 2),
            secure=None if credentials is None else str(credentials.folder),
        )
        self._write(endpoints)
        self._ready = True
        return endpoints

    async def keep(self, endpoints: Endpoints) -> None:
        """Start again what ends by itself, while the rest stays up; for ever if we started none.

        `endpoints.json` names the new processes. Raises `ServiceDied` for what cannot be started.
        """

        async def keep_one(part: KeptService) -> None:
            await keep(
                part,
                tell=self._console.print,
                restarted=lambda: self._write(replace(endpoints, pids=self._pids())),
                restarts=Restarts(),
            )

        parts = [part for service in self._services for part in service.parts]
        if not parts:
            await asyncio.get_running_loop().create_future()
        await together(*(keep_one(part) for part in parts), self._renew())

    async def stop(self) -> None:
        """Stop everything, also what is only half started; no process is left afterwards."""
        endpoints_file(self._data).unlink(missing_ok=True)
        grace_s = _STOP_GRACE_S if self._ready else _ABANDON_GRACE_S
        await asyncio.gather(*(service.stop(grace_s) for service in self._services))

    async def kill(self) -> None:
        """SIGKILL everything, for a person who asked twice."""
        await asyncio.gather(*(service.kill() for service in self._services))

    async def _renew(self) -> None:
        """Renew certificates for as long as their brokers run; what fails is tried again."""
        while self._rotation is not None:
            try:
                for name in await self._rotation.certificates(now()):
                    self._console.print(f"✓ {name} has a new certificate")
            except NotRotated as error:
                self._console.print(f"{error}\nit is tried again in {_RENEWAL_S / 60:g} minutes")
            await asyncio.sleep(_RENEWAL_S)

    def _pids(self) -> dict[str, int]:
        return {name: pid for one in self._services for name, pid in one.pids.items()}

    def _write(self, endpoints: Endpoints) -> None:
        # A Redis that the environment names may have a password in its URL, which stays there.
        shared = replace(endpoints, redis_url=without_user(endpoints.redis_url))
        write_whole(endpoints_file(self._data), shared.to_json() + "\n")

    def _port_names(self, brokers: int) -> tuple[str, ...]:
        kafka = () if self._external.kafka else port_names(brokers)
        return kafka if self._external.redis_url else (*kafka, "redis")

    def _plan(self, state: LauncherState, credentials: Credentials | None) -> tuple[str, str]:
        """Make the services to start; gives the bootstrap servers and the Redis URL."""
        kafka, redis_url = self._external.kafka, self._external.redis_url
        if kafka is None:
            java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
            cluster = KafkaCluster.at(
                self._data,
                state.ports,
                state.cluster_id,
                java,
                state.brokers,
                security=None if credentials is None else Security(credentials),
            )
            if credentials is not None:
                self._rotation = Rotation(cluster, credentials, java)
                for node in cluster.nodes:
                    credentials.renew(node.spec.node_id, now())
            self._services.append(cluster)
            kafka = cluster.bootstrap
        if redis_url is None:
            server = RedisServer(self._data, state.ports["redis"], find_redis_server(), credentials)
            self._services.append(server)
            redis_url = server.url
        return kafka, redis_url

    async def _start_one(self, service: Service) -> None:
        began = time.monotonic()
        self._console.print(f"starting {service.name} …")
        await service.start()
        self._console.print(f"✓ {service.name} answers, {time.monotonic() - began:.1f} s")

    def _external_checks(self) -> list[tuple[str, Callable[[], Awaitable[bool]]]]:
        checks: list[tuple[str, Callable[[], Awaitable[bool]]]] = []
        kafka, redis_url = self._external.kafka, self._external.redis_url
        if kafka is not None:

            async def kafka_answers() -> bool:
                return bool(await self._external_brokers(kafka))

            checks.append((f"MILLSTREAM_KAFKA={kafka}", kafka_answers))
        if redis_url is not None:

            async def redis_pongs() -> bool:
                if self._external.redis_secured:
                    return any([await listens(one) for one in addresses_of(redis_url)])
                return await redis_answers(redis_url)

            checks.append((f"MILLSTREAM_REDIS_URL={without_password(redis_url)}", redis_pongs))
        return checks

    async def _external_brokers(self, kafka: str) -> Sized:
        """Give the brokers that are seen; of secured ones, the addresses that take connections."""
        if not self._external.kafka_secured:
            return await brokers_seen(kafka)
        return [one for one in kafka.split(",") if await listens(one)]

    async def _check_external(self, name: str, answers: Callable[[], Awaitable[bool]]) -> None:
        await eventually(answers, what=name, timeout_s=_EXTERNAL_TIMEOUT_S)
        self._console.print(f"✓ {name} answers and is used")

    async def _fetch_jars(self) -> None:
        """Run `python -m millstream.infra fetch`, for a process can be stopped in mid-download."""
        if not missing(read_lock(LOCK_FILE), cache_folder()):
            return
        child = await asyncio.create_subprocess_exec(
            *guarded((sys.executable, "-P", "-m", "millstream.infra", "fetch")),
            start_new_session=True,
        )
        try:
            code = await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if code != 0:
            message = "Kafka's jars are not all in the cache"
            raise DownloadFailed(message)
