"""A Docker engine of the tests' own, for a machine where none answers.

It works inside a restricted container, too: no bridge, no firewall rules, no overlay file system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.services.containers import Engine, NoContainer
from tests.support import eventually

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_LOG_TAIL_CHARS = 3000


@asynccontextmanager
async def docker_engine() -> AsyncIterator[Engine]:
    """Give the engine that answers here, else start one and stop it in the end.

    Raises `NoContainer` with what to do, where none can be started.
    """
    engine = Engine.default()
    if _version(engine):
        yield engine
        return
    dockerd = shutil.which("dockerd", path=os.defpath + ":/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if dockerd is None:
        message = "no Docker engine answers and dockerd is not installed: apt-get install docker.io"
        raise NoContainer(message)
    if os.geteuid() != 0:
        message = "no Docker engine answers, and only root can start one"
        raise NoContainer(message)
    # Not pytest's folder: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="millstream-docker-") as folder:
        async with _dockerd(dockerd, Path(folder)) as started:
            yield started


@asynccontextmanager
async def _dockerd(program: str, folder: Path) -> AsyncIterator[Engine]:
    engine = Engine(f"unix://{folder}/docker.sock")
    log = folder / "dockerd.log"
    process = _spawn(program, engine, folder, log)
    try:

        def answers_or_died() -> str | None:
            if process.poll() is not None:
                tail = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:]
                message = f"dockerd ended with exit code {process.returncode}:\n{tail}"
                raise RuntimeError(message)
            return _version(engine)

        await eventually(answers_or_died, timeout_s=_READY_TIMEOUT_S)
        yield engine
    finally:
        _stop(process, folder)


def _spawn(program: str, engine: Engine, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [
                program,
                f"--host={engine.host}",
                f"--data-root={folder}/data",
                f"--exec-root={folder}/exec",
                f"--pidfile={folder}/dockerd.pid",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--storage-driver=vfs",
                "--default-ulimit=nofile=20000:20000",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop it; it ends its containers and its containerd before it ends itself."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
        # What it leaves mounted would keep its folder from being removed.
        for mounted in folder.glob("exec/netns/*"):
            subprocess.run(["/usr/bin/umount", str(mounted)], check=True)


def _version(engine: Engine) -> str | None:
    try:
        return engine.version()
    except NoContainer:
        return None
