"""What a data folder remembers between starts: `launcher.json`.

{"version": 1, "cluster_id": "…22 characters…", "brokers": 1, "ports": {"redis": 17001, …}}

One whose cluster has TLS, passwords and rights has `"secure": true` too.
"""

import json
import os
import secrets
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from millstream.infra.errors import DataMismatch
from millstream.infra.ports import choose_ports

__all__ = ["LauncherState", "write_whole"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class LauncherState:
    """`brokers` and `secure` are fixed by the first start; `ports`, by service, are the last's."""

    cluster_id: str
    brokers: int
    ports: dict[str, int] = field(default_factory=dict)
    secure: bool = False
    version: int = _VERSION

    @classmethod
    def load(
        cls, data: Path, brokers: int | None, *, secure: bool | None = None
    ) -> "LauncherState":
        """Read a folder's state, or begin one with `brokers` (1 if None), secure if it is to be.

        Raises `DataMismatch` if the folder holds a cluster of another size or of the other kind,
        or cannot be read.
        """
        path = _path(data)
        if not path.exists():
            return cls(cluster_id=_new_cluster_id(), brokers=brokers or 1, secure=bool(secure))
        state = _parse(path)
        if brokers not in {None, state.brokers}:
            message = (
                f"{data} holds a cluster of {state.brokers}, not of {brokers}: "
                "name another folder in MILLSTREAM_DATA_DIR (`python -m millstream.infra`: with "
                "--data), or remove this one with `make clean`"
            )
            raise DataMismatch(message)
        if secure not in {None, state.secure}:
            message = (
                f"{data} holds a cluster {'with' if state.secure else 'without'} TLS, passwords "
                "and rights, which is not to be changed: name another folder in "
                "MILLSTREAM_DATA_DIR (`python -m millstream.infra`: with --data), or remove this "
                "one with `make clean`"
            )
            raise DataMismatch(message)
        return state

    def with_ports(self, names: tuple[str, ...]) -> "LauncherState":
        """Give each name a port that is free now, keeping the others as they were."""
        return replace(self, ports={**self.ports, **choose_ports(names, self.ports)})

    def save(self, data: Path) -> None:
        """Write it; a crash leaves the old or the new one, never half."""
        told = asdict(self)
        if not self.secure:
            # As launchers wrote it that knew nothing of it.
            del told["secure"]
        write_whole(_path(data), json.dumps(told, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _path(data: Path) -> Path:
    return data / "launcher.json"


def _parse(path: Path) -> LauncherState:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        state = LauncherState(**raw)
    except (ValueError, TypeError) as error:
        message = f"{path} cannot be read ({error}): remove the folder with `make clean`"
        raise DataMismatch(message) from error
    if state.version != _VERSION:
        message = f"{path} is of version {state.version}, this launcher reads {_VERSION}"
        raise DataMismatch(message)
    return state


def _new_cluster_id() -> str:
    """Kafka's form: 16 random bytes, URL-safe base64 unpadded, never a leading '-' (an option)."""
    while True:
        text = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        if not text.startswith("-"):
            return text
