"""Which services a command talks to: those the environment names, else those of a running `up`.

`millstream up` changes nobody's environment. It leaves the launcher's note, `endpoints.json`, in
the data folder, and every command that is not told of a Kafka looks there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from millstream.gateway.installation import data_folder
from millstream.schemas.errors import Misconfigured
from millstream.streams.apps.name import AppName
from millstream.streams.broker.rights.users import USERS, User
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.connection_settings import ConnectionSettings
from millstream.streams.settings import Settings, load_settings

__all__ = [
    "UP_STARTS",
    "Endpoints",
    "as_user",
    "is_up_starting",
    "leave_note_of_up",
    "local_settings",
    "make_data_folder",
    "noted_start",
    "open_bus",
    "policy_of_up",
    "running_endpoints",
    "settings_for_client",
]

_OF_REDIS = {"redis_username", "redis_password", "redis_password_file"}
_NOTE_OF_UP = "up.json"
_NOTE_OF_START = "starting.json"
UP_STARTS = (
    "Millstream is still being started here: try again once that is done, as the terminal where it "
    "is started will say"
)
_NOTHING_RUNS = (
    "nothing runs here: start `millstream up`, or `millstream dev APP`, or set MILLSTREAM_KAFKA"
)
"""Followed by the folder that was looked in: installed, it depends on the working folder."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the services answer that a launcher started or found.

    `secure` is the folder of their users' files, `None` where everybody may do everything.
    """

    kafka: str
    redis_url: str
    launcher_pid: int
    secure: Path | None = None

    @classmethod
    def from_json(cls, text: str) -> Endpoints:
        """Read the launcher's line; raises `ValueError`, `KeyError` or `TypeError`."""
        note = json.loads(text)
        return cls(
            kafka=str(note["kafka"]),
            redis_url=str(note["redis_url"]),
            launcher_pid=int(note["launcher_pid"]),
            secure=None if note.get("secure") is None else Path(note["secure"]),
        )

    def connected(self, settings: Settings) -> Settings:
        """Give settings that name these services, where they name none.

        Whoever connects to secure ones by the file of one of their users is that user of Redis,
        too. Raises `Misconfigured` where secure ones are asked without a user.
        """
        given = settings.model_fields_set
        is_ours = settings.kafka == self.kafka or "kafka" not in given
        update: dict[str, object] = {} if "kafka" in given else {"kafka": self.kafka}
        # The launcher's Redis belongs to the launcher's Kafka, and to no other.
        if is_ours and "redis_url" not in given:
            update["redis_url"] = self.redis_url
        if not is_ours or self.secure is None:
            return settings.model_copy(update=update)
        if not given & {"kafka_config", "kafka_security_protocol"}:
            message = (
                "who connects to what runs here is a user: set MILLSTREAM_KAFKA_CONFIG="
                f"{self.secure}/USER/client.properties, USER is one of {', '.join(USERS)}"
            )
            raise Misconfigured(message)
        user = None if settings.kafka_config is None else settings.kafka_config.parent
        if user is not None and user.parent == self.secure and not given & _OF_REDIS:
            update |= _redis_user(user)
        return settings.model_copy(update=update)


def as_user(settings: Settings, secure: Path, user: User | Literal["admin"]) -> Settings:
    """Give the settings of a user of secure services, by the folder of their files."""
    own = secure / user
    return settings.model_copy(
        update={"kafka_config": own / "client.properties", **_redis_user(own)}
    )


def _redis_user(own: Path) -> dict[str, object]:
    return {"redis_username": own.name, "redis_password_file": own / "redis-password"}


def _may_be_secret(name: str, path: Path) -> bool:
    """Tell whether a secret may stand where its file is to be named: no error is to show it."""
    if name not in ConnectionSettings.model_fields or not name.endswith("_file"):
        return False
    try:
        return not path.exists()
    except (OSError, ValueError):
        return True


def local_settings() -> Settings:
    """Read the settings; the data folder is that of `installation` unless one is named.

    An empty MILLSTREAM_KAFKA or MILLSTREAM_REDIS_URL counts as not given.
    """
    settings = load_settings()
    given = settings.model_fields_set
    data = settings.data_dir.absolute() if "data_dir" in given else data_folder()
    settings = settings.model_copy(update={"data_dir": data})
    # They hold wherever a program that is told of them runs.
    files = {
        name: path.absolute()
        for name in ("policy_file", "topics_file", *ConnectionSettings.model_fields)
        if isinstance(path := getattr(settings, name), Path) and not _may_be_secret(name, path)
    }
    settings = settings.model_copy(update=files)
    if settings.app is not None:
        settings = settings.model_copy(update={"app": str(AppName.parse(settings.app))})
    empty = {name for name in ("kafka", "redis_url") if not getattr(settings, name)}
    kept = {name: getattr(settings, name) for name in settings.model_fields_set - empty}
    return Settings.model_construct(**kept)


def make_data_folder(settings: Settings) -> None:
    """Make the data folder; raises `Misconfigured` where it cannot be made or written to."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        message = (
            f"the data folder {folder} cannot be written to ({reason}): name another one in "
            "MILLSTREAM_DATA_DIR"
        )
        raise Misconfigured(message)


def running_endpoints(data: Path) -> Endpoints | None:
    """Read the note of the launcher that runs on this data folder, `None` where none does."""
    try:
        endpoints = Endpoints.from_json((data / "endpoints.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        message = f"{data / 'endpoints.json'} cannot be read ({error}): start `millstream up` anew"
        raise Misconfigured(message) from error
    # A launcher that was killed leaves its note behind.
    return endpoints if _is_launcher(endpoints.launcher_pid) else None


def settings_for_client() -> Settings:
    """Give the settings of a command that talks to services that run already.

    Raises `Misconfigured` where a setting is wrong, or neither a Kafka is named nor `up` runs.
    """
    settings = local_settings()
    given = settings.model_fields_set
    running = running_endpoints(settings.data_dir)
    if running is not None:
        return running.connected(settings)
    if "kafka" in given:
        return settings
    if is_up_starting(settings):
        raise Misconfigured(UP_STARTS)
    raise Misconfigured(f"{_NOTHING_RUNS} (no `up` has its data in {settings.data_dir})")


@contextmanager
def noted_start(settings: Settings) -> Iterator[Callable[[], None]]:
    """Note that Kafka, Redis and a worker are being started, until what it gives is called.

    Commands of another terminal then tell people to wait, and not to start what is missing.
    """
    note = settings.data_dir / _NOTE_OF_START
    note.write_text(
        json.dumps({"pid": os.getpid(), "began": _began(os.getpid())}), encoding="utf-8"
    )

    def started() -> None:
        note.unlink(missing_ok=True)

    try:
        yield started
    finally:
        started()


def is_up_starting(settings: Settings) -> bool:
    """Tell whether the `up` that these settings would talk to has no worker serving yet."""
    try:
        note = json.loads((settings.data_dir / _NOTE_OF_START).read_text(encoding="utf-8"))
        # One that was killed leaves its note behind, and its id may be another process's by now.
        if note["began"] != _began(note["pid"]):
            return False
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    if "kafka" not in settings.model_fields_set:
        return True
    running = running_endpoints(settings.data_dir)
    return running is not None and running.kafka == settings.kafka


def leave_note_of_up(settings: Settings, launcher_pid: int) -> None:
    """Note with which policy `millstream up` runs here, for those who ask in another terminal."""
    policy = None if settings.policy_file is None else str(settings.policy_file)
    note = {"launcher_pid": launcher_pid, "policy_file": policy}
    (settings.data_dir / _NOTE_OF_UP).write_text(json.dumps(note), encoding="utf-8")


def policy_of_up(settings: Settings) -> tuple[Path | None] | None:
    """Give the policy file of the `up` that these settings talk to, `None` if that is not known.

    Nothing runs here then, or other services are named, or an `up` of an earlier version runs.
    """
    running = running_endpoints(settings.data_dir)
    if running is None:
        return None
    if "kafka" in settings.model_fields_set and settings.kafka != running.kafka:
        return None
    try:
        note = json.loads((settings.data_dir / _NOTE_OF_UP).read_text(encoding="utf-8"))
        known = note["launcher_pid"] == running.launcher_pid
        policy = note["policy_file"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not known:  # an earlier one's
        return None
    return (None if policy is None else Path(policy),)


def open_bus(settings: Settings) -> KafkaBus:
    """Build the bus of a command; it connects when it is entered."""
    return KafkaBus(settings)


def _began(pid: int) -> str:
    """Give when a process began, in the kernel's ticks. Raises `OSError` where there is none."""
    # Behind the name of its program, which may hold anything.
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]


def _is_launcher(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"millstream.infra" in arguments
