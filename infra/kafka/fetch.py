"""Brings the pinned jars into the cache, and pins them anew.

jgo resolves and downloads in pure Python (no Java, no mvn) and knows the registry's address. Its
own cache is a staging folder of ours, since it writes files in place and only warns of a mismatch:
a jar enters the cache by one rename after its sha256 has been compared.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

import requests
from jgo.maven import Dependency, MavenContext, PythonResolver
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from millstream.infra.errors import CacheUnwritable, DownloadFailed, JarMismatch
from millstream.infra.kafka.jars import Jar, format_lock, jars_folder, missing, sha256_of
from millstream.infra.paths import trust

__all__ = ["ALONE", "ROOTS", "fetch", "lock_jars"]

# The binding is what makes Kafka's log appear: its own artifact leaves the choice of one to us.
ROOTS = ("org.apache.kafka:kafka_2.13:4.3.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")
# Kafka's own commands: those that tests run need nothing that the broker does not, and what the
# others need is as large again.
ALONE = ("org.apache.kafka:kafka-tools:4.3.1",)

_DOWNLOADS_AT_ONCE = 6
_SOCKET_TIMEOUT_S = 30

_ByteCount = Callable[[int], None]
_OnDownload = Callable[[str, int], AbstractContextManager[_ByteCount]]


def fetch(jars: tuple[Jar, ...], cache: Path, console: Console) -> int:
    """Download what the cache lacks of `jars`, showing each on `console`; returns how many.

    Takes turns with another process that fetches. A jar that is in place stays in place when a
    later one fails. Raises `DownloadFailed` or `JarMismatch`, naming the jar, or
    `CacheUnwritable`.
    """
    wanted = missing(jars, cache)
    if not wanted:
        return 0
    with _staging(cache) as staging:
        wanted = missing(jars, cache)
        with _bars(console) as bars:
            total = bars.add_task(f"Kafka's jars, {len(wanted)} of {len(jars)}", total=len(wanted))
            # Threads: they spend their time waiting for the registry, one file each.
            pool = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE)
            halted = threading.Event()
            context = _context(staging, _Downloads(bars, halted))
            try:
                started = {pool.submit(_fetch_one, context, jar, cache): jar for jar in wanted}
                for done in as_completed(started):
                    _raise_named(done, started[done])
                    bars.advance(total)
                    if not console.is_terminal:
                        console.print(f"fetched {started[done].filename}")
            finally:
                halted.set()
                pool.shutdown(wait=False, cancel_futures=True)
    return len(wanted)


def lock_jars(path: Path, cache: Path, console: Console) -> tuple[Jar, ...]:
    """Resolve `ROOTS` with all they need, add `ALONE`, download every jar, pin them in `path`."""
    with _staging(cache) as staging, _bars(console) as bars:
        context = _context(staging, _Downloads(bars, threading.Event()))
        chosen: dict[tuple[str, str], Dependency] = {}
        # One root at a time, the first one's versions win: resolved together, the versions that
        # the logging binding manages would replace those Kafka was released with.
        for coordinate in ROOTS:
            root = context.create_dependency(coordinate)
            inputs, transitive = context.resolver.resolve([root])
            for dependency in (*inputs, *transitive):
                chosen.setdefault((dependency.groupId, dependency.artifactId), dependency)
        for coordinate in ALONE:
            alone = context.create_dependency(coordinate)
            chosen[alone.groupId, alone.artifactId] = alone
        jars = tuple(_pin(dependency) for dependency in chosen.values())
    partial = path.with_suffix(".partial")
    partial.write_text(format_lock(jars), encoding="utf-8")
    partial.replace(path)
    return jars


class _Downloads:
    """jgo's progress callback: a bar per file, and a way to halt all of them."""

    def __init__(self, bars: Progress, halted: threading.Event) -> None:
        self._bars = bars
        self._halted = halted

    @contextmanager
    def __call__(self, filename: str, total_bytes: int) -> Iterator[_ByteCount]:
        bar = self._bars.add_task(filename, total=total_bytes, bytes=True)

        def advance(count: int) -> None:
            if self._halted.is_set():
                message = f"{filename}: stopped"
                raise DownloadFailed(message)
            self._bars.advance(bar, count)

        try:
            yield advance
        finally:
            self._bars.remove_task(bar)


def _context(staging: Path, on_download: _OnDownload) -> MavenContext:
    logging.getLogger("jgo").setLevel(logging.ERROR)
    certificates = trust()
    if certificates is not None:
        os.environ.setdefault("REQUESTS_CA_BUNDLE", certificates)
    return MavenContext(
        resolver=PythonResolver(progress_callback=on_download),
        repo_cache=staging,
        timeout=_SOCKET_TIMEOUT_S,
    )


def _fetch_one(context: MavenContext, jar: Jar, cache: Path) -> None:
    # One artifact by its exact coordinate: what else it would pull in is pinned on its own line.
    path = context.create_dependency(jar.coordinate).artifact.resolve()
    actual = sha256_of(path)
    if path.name != jar.filename or actual != jar.sha256:
        message = (
            f"{jar.coordinate}: got {path.name} with sha256 {actual}, "
            f"but {jar.filename} with {jar.sha256} is pinned; it was thrown away"
        )
        raise JarMismatch(message)
    path.replace(jars_folder(cache) / jar.filename)


def _raise_named(done: Future[None], jar: Jar) -> None:
    """Let a failed download speak of its jar; jgo reports "not found" as a bare RuntimeError."""
    try:
        done.result()
    except (requests.RequestException, RuntimeError) as error:
        message = (
            f"{jar.coordinate} could not be fetched. What was fetched is kept: run the command "
            f"again when the network is there. Cause: {error}"
        )
        raise DownloadFailed(message) from error


def _pin(dependency: Dependency) -> Jar:
    path = dependency.artifact.resolve()
    coordinate = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
    return Jar(sha256=sha256_of(path), coordinate=coordinate, filename=path.name)


@contextmanager
def _staging(cache: Path) -> Iterator[Path]:
    """Give a fresh folder on the cache's file system, to one process at a time."""
    with _turn_file(cache) as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for abandoned in cache.glob("staging-*"):
            shutil.rmtree(abandoned)
        staging = Path(tempfile.mkdtemp(prefix="staging-", dir=cache))
        try:
            yield staging
        finally:
            # A halted thread may still write one last chunk: what it leaves, the next turn clears.
            shutil.rmtree(staging, ignore_errors=True)


def _turn_file(cache: Path) -> TextIO:
    try:
        jars_folder(cache).mkdir(parents=True, exist_ok=True)
        return (cache / "jars.turn").open("w")
    except OSError as error:
        message = (
            f"the folder of downloads cannot be written ({error}): name another one in "
            "MILLSTREAM_CACHE"
        )
        raise CacheUnwritable(message) from error


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Amount(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class _Amount(ProgressColumn):
    """Bytes on a file's bar, a count of files on the total's."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = DownloadColumn()
        self._files = MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        return (self._bytes if "bytes" in task.fields else self._files).render(task)
