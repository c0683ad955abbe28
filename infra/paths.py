"""Where the launcher keeps things, and which services the environment names instead of ours.

The folders are those that `millstream.gateway.installation` finds; a test holds the two together.

The only module of `infra` that reads the environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millstream.infra.errors import CacheUnwritable

__all__ = [
    "LOCK_FILE",
    "PROJECT",
    "ExternalServices",
    "cache_folder",
    "data_folder",
    "data_folder_of",
    "trust",
]

PROJECT = Path(__file__).resolve().parent.parent
LOCK_FILE = PROJECT / "infra" / "kafka-jars.lock"

_OWN = ".millstream"
_REDIS_USER = (
    *("MILLSTREAM_REDIS_USERNAME", "MILLSTREAM_REDIS_PASSWORD"),
    *("MILLSTREAM_REDIS_PASSWORD_FILE", "MILLSTREAM_REDIS_SENTINEL_PASSWORD"),
    "MILLSTREAM_REDIS_SENTINEL_PASSWORD_FILE",
)
_IS_CHECKOUT = (PROJECT / "src" / "millstream").is_dir()


@dataclass(frozen=True, slots=True)
class ExternalServices:
    """Services that run already: `kafka` as "host:port[,host:port]", `redis_url` as a URL.

    What secures one that is `…_secured` is for its clients to know: the launcher has no user there.
    """

    kafka: str | None = None
    redis_url: str | None = None
    kafka_secured: bool = False
    redis_secured: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ExternalServices":
        """Read MILLSTREAM_KAFKA and MILLSTREAM_REDIS_URL; an empty value counts as unset."""
        redis_url = environment.get("MILLSTREAM_REDIS_URL") or None
        protocol = environment.get("MILLSTREAM_KAFKA_SECURITY_PROTOCOL", "").strip().upper()
        return cls(
            kafka=environment.get("MILLSTREAM_KAFKA") or None,
            redis_url=redis_url,
            kafka_secured=bool(environment.get("MILLSTREAM_KAFKA_CONFIG"))
            or protocol not in {"", "PLAINTEXT"},
            redis_secured=(redis_url or "").startswith("rediss")
            or any(environment.get(name) for name in _REDIS_USER),
        )


def data_folder() -> Path:
    """Give the folder of the data: the checkout's, else the one of the working folder."""
    return PROJECT / _OWN / "data" if _IS_CHECKOUT else data_folder_of(Path.cwd())


def data_folder_of(folder: Path) -> Path:
    """Find `.millstream/data` of `folder`, or its nearest parent with a `.millstream` of ours."""
    above = (one for one in folder.parents if _is_mine(one / _OWN))
    found = folder if (folder / _OWN).is_dir() else next(above, folder)
    return found / _OWN / "data"


def cache_folder(
    environment: Mapping[str, str] = os.environ, *, checkout: bool = _IS_CHECKOUT
) -> Path:
    """Folder of downloads: MILLSTREAM_CACHE, else the checkout's, else one in the user's cache.

    Raises `CacheUnwritable` where the user has no home folder.
    """
    named = environment.get("MILLSTREAM_CACHE")
    if named:
        return Path(named).expanduser().resolve()
    if checkout:
        return PROJECT / _OWN / "cache"
    of_user = Path(environment.get("XDG_CACHE_HOME", ""))
    # By the XDG specification a path that is relative is ignored.
    if of_user.is_absolute():
        return of_user / "millstream"
    try:
        return Path.home() / ".cache" / "millstream"
    except RuntimeError as error:
        message = "this user has no home folder: name a folder for downloads in MILLSTREAM_CACHE"
        raise CacheUnwritable(message) from error


def trust(environment: Mapping[str, str] = os.environ) -> str | None:
    """Path of the certificate bundle to trust, or None for the downloader's own.

    uv and OpenSSL read SSL_CERT_FILE and pip reads PIP_CERT, but jgo's HTTP library only reads
    REQUESTS_CA_BUNDLE: behind a company's proxy the jars would fail where the wheels came through.
    """
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT"):
        if environment.get(name):
            return environment[name]
    return None


def _is_mine(folder: Path) -> bool:
    try:
        return folder.is_dir() and folder.stat().st_uid == os.getuid()
    except OSError:
        return False
