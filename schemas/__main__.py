"""`python -m millstream.schemas write | check | release`: the documents in `docs/reference`.

`write` generates them, `check` tells where they are stale or break a reader of the newest release,
`release` keeps what stands as the baseline of the version in `src/millstream/version.py`. Exits 0,
1 when there is something to do, 2 for misuse.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from millstream.schemas.documents.asyncapi import asyncapi_document
from millstream.schemas.documents.compatibility import channel_breaks, event_breaks
from millstream.schemas.documents.contract import Json, event_schemas, to_text
from millstream.schemas.documents.reference import reference_page
from millstream.version import __version__

PROJECT = Path(__file__).resolve().parent.parent

_ASYNCAPI = "asyncapi.json"
_SCHEMAS = "schemas"
_RELEASED = "released"


def documents(version: str) -> dict[str, str]:
    """Give the text of every generated file by its path below `docs/reference`."""
    schemas = {f"{_SCHEMAS}/{name}.json": to_text(doc) for name, doc in event_schemas().items()}
    return {
        **schemas,
        _ASYNCAPI: to_text(asyncapi_document(version)),
        "events.md": reference_page(),
    }


def write(folder: Path, version: str) -> None:
    """Write every generated file, and delete the schemas of events that are no more."""
    wanted = documents(version)
    for path in _surplus(folder, wanted):
        (folder / path).unlink()
    for path, text in wanted.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def problems(folder: Path, version: str) -> list[str]:
    """Tell, a line each, what is stale and what breaks a reader of the newest release."""
    wanted = documents(version)
    stale = [
        f"{path} is stale: run `python -m millstream.schemas write`"
        for path, text in wanted.items()
        if not (folder / path).is_file() or (folder / path).read_text(encoding="utf-8") != text
    ]
    stale += [
        f"{path} is of no event: run `python -m millstream.schemas write`"
        for path in _surplus(folder, wanted)
    ]
    return stale + _breaks(folder, version)


def release(folder: Path, version: str) -> list[str]:
    """Keep the documents as the baseline of `version`; gives what stands in the way, if anything.

    A baseline is never written over: it is what readers in the field were built against.
    """
    baseline = folder / _RELEASED / version
    if baseline.exists():
        return [f"{version} is released already: raise the version in src/millstream/version.py"]
    found = problems(folder, version)
    if not found:
        shutil.copytree(folder / _SCHEMAS, baseline)
        shutil.copy(folder / _ASYNCAPI, baseline)
    return found


def _breaks(folder: Path, version: str) -> list[str]:
    baseline = _newest_release(folder)
    if baseline is None:
        return []
    released = {path.stem: _json(path) for path in sorted(baseline.glob("*.json"))}
    channels = released.pop("asyncapi")
    found = event_breaks(released, event_schemas())
    found += channel_breaks(channels, asyncapi_document(version))
    return [f"since {baseline.name}: {problem}" for problem in found]


def _newest_release(folder: Path) -> Path | None:
    releases = [path for path in (folder / _RELEASED).glob("*.*.*") if path.is_dir()]
    return max(releases, key=_release_order, default=None)


def _release_order(release: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in release.name.split("."))


def _surplus(folder: Path, wanted: dict[str, str]) -> list[str]:
    found = (f"{_SCHEMAS}/{path.name}" for path in (folder / _SCHEMAS).glob("*.json"))
    return sorted(path for path in found if path not in wanted)


def _json(path: Path) -> Json:
    document: Json = json.loads(path.read_text(encoding="utf-8"))
    return document


def main(arguments: list[str]) -> int:
    """Run the command that `arguments` name; gives the exit code."""
    folder = PROJECT / "docs" / "reference"
    if not folder.is_dir():
        sys.stderr.write(f"{folder} is missing: the documents are of a checkout of Millstream\n")
        return 2
    match arguments:
        case ["write"]:
            write(folder, __version__)
            found = []
        case ["check"]:
            found = problems(folder, __version__)
        case ["release"]:
            found = release(folder, __version__)
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    sys.stderr.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
