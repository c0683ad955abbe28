"""A PostgreSQL of its own for the peers that write to one: loopback, `fsync` on, its own folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Database", "PostgresMissing", "postgres"]

_USER = "postgres"
_READY_TIMEOUT_S = 30.0
_POLL_S = 0.1


class PostgresMissing(Exception):
    """There is no PostgreSQL; says what to install."""


class Database:
    """A running server, asked by its own `psql`."""

    def __init__(self, programs: Path, port: int) -> None:
        self._psql = programs / "psql"
        self.port = port

    def create(self, name: str) -> str:
        """Make a database; give its URL."""
        self.ask(f"CREATE DATABASE {name}")
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"

    def size(self, name: str) -> int:
        """Give the bytes of a database, tables and indexes, after a checkpoint."""
        self.ask("CHECKPOINT")
        return int(self.ask(f"SELECT pg_database_size('{name}')"))

    def wal(self) -> int:
        """Give how many bytes were written to the log ahead of all databases."""
        return int(self.ask("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))

    def ask(self, query: str) -> str:
        """Give the one value that a query answers. Raises `subprocess.CalledProcessError`."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, "-d", "postgres"]
        asked = subprocess.run(
            [self._psql, *where, "-X", "-q", "-A", "-t", "-c", query],
            check=True,
            capture_output=True,
            text=True,
        )
        return asked.stdout.strip()


@contextmanager
def postgres() -> Iterator[Database]:
    """Run a server until the block ends. Raises `PostgresMissing`, or `RuntimeError` if it fails.

    It refuses to run as root, so root runs it as Debian's user for it.
    """
    programs = _programs()
    user = _USER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="millstream-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user, user)
        data = folder / "data"
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                _USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
            ],
            check=True,
            capture_output=True,
            user=user,
            cwd=folder,
        )
        with _serving(programs, folder, user) as database:
            yield database
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _serving(programs: Path, folder: Path, user: str | None) -> Iterator[Database]:
    port = _free_port()
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "on",
        "synchronous_commit": "on",
        "max_connections": 200,
        # So that no checkpoint by size falls into the one side's turn and not into the other's.
        "max_wal_size": "4GB",
    }
    told = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *told],
            stdout=log,
            stderr=log,
            user=user,
            cwd=folder,
        )
    try:
        database = Database(programs, port)
        until_s = time.monotonic() + _READY_TIMEOUT_S
        while True:
            try:
                database.ask("SELECT 1")
                break
            except subprocess.CalledProcessError:
                if process.poll() is not None or time.monotonic() > until_s:
                    told_last = (folder / "log").read_text(errors="replace")[-3000:]
                    message = f"PostgreSQL is not ready:\n{told_last}"
                    raise RuntimeError(message) from None
                time.sleep(_POLL_S)
        yield database
    finally:
        process.send_signal(signal.SIGINT)  # ends sessions, and stops in order
        process.wait(_READY_TIMEOUT_S)


def _programs() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda one: int(one.parts[4])
    )
    if not found or int(found[-1].parts[4]) < 15:
        message = "there is no PostgreSQL 15 or newer: install it by `apt-get install postgresql`"
        raise PostgresMissing(message)
    return found[-1].parent


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
