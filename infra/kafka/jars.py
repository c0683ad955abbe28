"""The jars Kafka runs on: which they are, and whether the cache holds exactly those.

`infra/kafka-jars.lock` pins each one on a line `sha256  group:artifact:version  filename`. No jar
whose bytes differ from its pin is ever put on a class path.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from millstream.infra.errors import LockFileInvalid

__all__ = [
    "Jar",
    "class_path",
    "format_lock",
    "jars_folder",
    "missing",
    "parse_lock",
    "read_lock",
    "sha256_of",
]

_LINE = re.compile(
    r"(?P<sha256>[0-9a-f]{64})"
    r"  (?P<coordinate>[^\s:/]+:[^\s:/]+:[^\s:/]+)"
    r"  (?P<filename>[^\s/]+\.jar)"
)
_HEADER = (
    "# The jars of the dev launcher's Kafka. Written by `python -m millstream.infra lock-jars`.\n"
    "# sha256  group:artifact:version  filename\n"
)


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned jar: `coordinate` is group:artifact:version, `sha256` in lower-case hex."""

    sha256: str
    coordinate: str
    filename: str


def parse_lock(text: str) -> tuple[Jar, ...]:
    """Read the lock file's text; raises `LockFileInvalid` that names the first bad line."""
    jars: dict[str, Jar] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            message = (
                f"line {number} of the jar lock is not 'sha256  group:artifact:version  filename'"
            )
            raise LockFileInvalid(message)
        jar = Jar(**match.groupdict())
        if jar.filename in jars:
            message = f"line {number} of the jar lock pins {jar.filename} a second time"
            raise LockFileInvalid(message)
        jars[jar.filename] = jar
    if not jars:
        message = "the jar lock pins no jar"
        raise LockFileInvalid(message)
    return tuple(jars.values())


def format_lock(jars: Iterable[Jar]) -> str:
    """Write jars as the lock file's text, sorted by coordinate so that diffs are small."""
    ordered = sorted(jars, key=lambda jar: jar.coordinate)
    return _HEADER + "".join(f"{jar.sha256}  {jar.coordinate}  {jar.filename}\n" for jar in ordered)


def read_lock(path: Path) -> tuple[Jar, ...]:
    """Read a lock file; raises `LockFileInvalid` if it is missing or malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        message = (
            f"{path} is missing: it comes with the clone, or from "
            "`python -m millstream.infra lock-jars`"
        )
        raise LockFileInvalid(message) from error
    return parse_lock(text)


def jars_folder(cache: Path) -> Path:
    """Folder inside the cache that holds the verified jars, all side by side."""
    return cache / "jars"


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing(jars: Iterable[Jar], cache: Path) -> tuple[Jar, ...]:
    """Tell which jars the cache lacks, or holds with bytes that are not the pinned ones.

    Every byte is read each time: 50 MB in some 0.1 s, against a broken cache that fails in Java.
    """
    folder = jars_folder(cache)
    return tuple(
        jar
        for jar in jars
        if not (folder / jar.filename).is_file() or sha256_of(folder / jar.filename) != jar.sha256
    )


def class_path(jars: Iterable[Jar], cache: Path) -> str:
    """Java class path of exactly the pinned jars; one flat folder serves modular ones as well."""
    folder = jars_folder(cache)
    if ":" in str(folder):
        message = f"Java cannot use a class path below {folder}: ':' separates its entries"
        raise LockFileInvalid(message)
    return ":".join(str(folder / jar.filename) for jar in jars)
