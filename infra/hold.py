"""One launcher per data folder, and the note that tells other programs how to connect.

`<data>/launcher.lock` is held by a file lock, which the kernel drops when its holder dies; its text
is the holder's pid. `<data>/endpoints.json` exists while the services answer; after a crash it may
be stale, so read it only while the lock is held.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from millstream.infra.errors import DataInUse, DataUnwritable

__all__ = ["endpoints_file", "hold", "remove"]

_LOCK_NAME = "launcher.lock"
_HOW = "in MILLSTREAM_DATA_DIR (`python -m millstream.infra`: with --data)"


def endpoints_file(data: Path) -> Path:
    """Path of the note: the JSON object that `python -m millstream.infra up` prints."""
    return data / "endpoints.json"


@contextmanager
def hold(data: Path) -> Iterator[None]:
    """Hold a data folder, creating it; what a crashed launcher left in the note is removed.

    Raises `DataInUse` with the holder's pid and how to connect to what it runs, `DataUnwritable`
    where nothing may be written.
    """
    with _lock_file(data) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise DataInUse(_in_use(data, lock.read().strip())) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        endpoints_file(data).unlink(missing_ok=True)
        try:
            yield
        finally:
            endpoints_file(data).unlink(missing_ok=True)


def remove(data: Path) -> bool:
    """Delete a data folder that no launcher holds; tells whether there was one.

    Raises `DataInUse` if one does.
    """
    if not data.exists():
        return False
    with hold(data):
        shutil.rmtree(data)
    return True


def _lock_file(data: Path) -> TextIO:
    try:
        data.mkdir(parents=True, exist_ok=True)
        _keep_out_of_git(data.parent)
        # For appending: the text of the holder must survive our failing to get the lock.
        return (data / _LOCK_NAME).open("a+", encoding="utf-8")
    except OSError as error:
        message = f"the data folder cannot be written ({error}): name another one {_HOW}"
        raise DataUnwritable(message) from error


def _keep_out_of_git(folder: Path) -> None:
    """Have git pass over a `.millstream` of ours, which may stand in anybody's repository."""
    if folder.name == ".millstream" and not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("# Made by Millstream.\n*\n", encoding="utf-8")


def _in_use(data: Path, pid: str) -> str:
    message = f"{data} is in use by the launcher with pid {pid or 'unknown'}."
    try:
        endpoints = json.loads(endpoints_file(data).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{message} It is not ready yet, or is stopping."
    return (
        f"{message} Use its Kafka ({endpoints['kafka']}), stop it (kill {pid}), or name another "
        f"folder {_HOW}."
    )
