"""Where the launcher keeps things, and which services the environment names instead of ours.

The only module of `infra` that reads the environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DATA_DEFAULT", "LOCK_FILE", "PROJECT", "ExternalServices", "cache_folder", "trust"]

PROJECT = Path(__file__).resolve().parent.parent
DATA_DEFAULT = PROJECT / ".millstream" / "data"
LOCK_FILE = PROJECT / "infra" / "kafka-jars.lock"


@dataclass(frozen=True, slots=True)
class ExternalServices:
    """Services that run already: `kafka` as "host:port[,host:port]", `redis_url` as a URL."""

    kafka: str | None = None
    redis_url: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ExternalServices":
        """Read MILLSTREAM_KAFKA and MILLSTREAM_REDIS_URL; an empty value counts as unset."""
        return cls(
            kafka=environment.get("MILLSTREAM_KAFKA") or None,
            redis_url=environment.get("MILLSTREAM_REDIS_URL") or None,
        )


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Folder of what was downloaded: MILLSTREAM_CACHE, else `.millstream/cache` of the project."""
    named = environment.get("MILLSTREAM_CACHE")
    return Path(named).expanduser().resolve() if named else PROJECT / ".millstream" / "cache"


def trust(environment: Mapping[str, str] = os.environ) -> str | None:
    """Path of the certificate bundle to trust, or None for the downloader's own.

    uv and OpenSSL read SSL_CERT_FILE and pip reads PIP_CERT, but jgo's HTTP library only reads
    REQUESTS_CA_BUNDLE: behind a company's proxy the jars would fail where the wheels came through.
    """
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT"):
        if environment.get(name):
            return environment[name]
    return None
