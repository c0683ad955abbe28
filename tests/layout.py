"""How the source is laid out: `python -m tests.layout` lists its folders and checks their limits.

Per folder: modules, lines, the longest module. Then the constructors of `streams/lane` that have
the most parameters, and the files of tests that took the last `make test` the most time. Exits
with 1 if a folder, a module or a constructor is beyond its limit.
"""

from __future__ import annotations

import ast
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.durations import DEFAULT as DURATIONS

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = ("agents", "benchmarks", "gateway", "infra", "middleware", "schemas", "streams")
LANE = "streams/lane"

MODULES_MAX = 12
LINES_MAX = 400
LINES_MEDIAN_MAX = 150
PARAMETERS_MAX = 7

_SLOWEST = 10
_MOST = 5


@dataclass(frozen=True, slots=True)
class Module:
    """A module by its path from the project's folder."""

    path: Path
    lines: int


@dataclass(frozen=True, slots=True)
class Constructor:
    """A class's constructor, and how many parameters it has besides `self`."""

    path: Path
    name: str
    parameters: int


def read_modules(project: Path = PROJECT) -> list[Module]:
    """Give the modules of the source; packages' own `__init__` and `__main__` do not count."""
    return [
        Module(path.relative_to(project), len(path.read_text("utf-8").splitlines()))
        for folder in SOURCE
        for path in sorted((project / folder).rglob("*.py"))
        if not path.name.startswith("__")
    ]


def read_constructors(modules: Iterable[Module], project: Path = PROJECT) -> list[Constructor]:
    """Give the constructors written in `streams/lane`; the fields of values do not count."""
    return [
        Constructor(module.path, node.name, _parameters(member.args))
        for module in modules
        if module.path.is_relative_to(LANE)
        for node in ast.walk(ast.parse((project / module.path).read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        for member in node.body
        if isinstance(member, ast.FunctionDef) and member.name == "__init__"
    ]


def _parameters(given: ast.arguments) -> int:
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1  # without `self`


def broken(modules: Sequence[Module]) -> Iterator[str]:
    """Say which folders and modules are beyond their limits."""
    for folder, of_folder in _by_folder(modules).items():
        if len(of_folder) > MODULES_MAX:
            yield f"{folder}: {len(of_folder)} modules, more than {MODULES_MAX}"
    for one in modules:
        if one.lines > LINES_MAX:
            yield f"{one.path}: {one.lines} lines, more than {LINES_MAX}"
    median = statistics.median(one.lines for one in modules)
    if median > LINES_MEDIAN_MAX:
        yield f"the median module has {median:g} lines, more than {LINES_MEDIAN_MAX}"


def crowded(constructors: Iterable[Constructor]) -> Iterator[str]:
    """Say which constructors take too many parameters."""
    for one in constructors:
        if one.parameters > PARAMETERS_MAX:
            yield (
                f"{one.path}: {one.name} is made from {one.parameters} parameters, "
                f"more than {PARAMETERS_MAX}"
            )


def _by_folder(modules: Iterable[Module]) -> dict[Path, list[Module]]:
    found: dict[Path, list[Module]] = defaultdict(list)
    for one in modules:
        found[one.path.parent].append(one)
    return found


def table(modules: Sequence[Module]) -> Iterator[str]:
    """Give a line for each folder, and one for all."""
    yield f"{'folder':<32}{'modules':>8}{'lines':>8}  longest"
    for folder, of_folder in _by_folder(modules).items():
        longest = max(of_folder, key=lambda one: one.lines)
        lines = sum(one.lines for one in of_folder)
        yield f"{folder!s:<32}{len(of_folder):>8}{lines:>8}  {longest.path.name} {longest.lines}"
    lines = sum(one.lines for one in modules)
    median = statistics.median(one.lines for one in modules)
    yield f"{'all':<32}{len(modules):>8}{lines:>8}  median {median:g}"


def slowest(durations: Path) -> Iterator[str]:
    """Give the files that `make test` spent the most time in, s in all its processes."""
    if not durations.exists():
        yield "no run of `make test` has left its durations yet"
        return
    seconds: dict[str, float] = json.loads(durations.read_text("utf-8"))
    yield f"{sum(seconds.values()):8.1f} s in {len(seconds)} files of `make test`, longest first:"
    for file, took_s in sorted(seconds.items(), key=lambda one: -one[1])[:_SLOWEST]:
        yield f"{took_s:8.1f} s {file}"


def main() -> int:
    """Print the tables and what is beyond its limit; give the exit code."""
    modules = read_modules()
    constructors = read_constructors(modules)
    largest = sorted(constructors, key=lambda one: -one.parameters)[:_MOST]
    told = [
        *table(modules),
        "",
        f"constructors of {LANE} with the most parameters:",
        *(f"{one.parameters:8}  {one.path}: {one.name}" for one in largest),
        "",
        *slowest(PROJECT / DURATIONS),
    ]
    beyond = [*broken(modules), *crowded(constructors)]
    sys.stdout.writelines(f"{line}\n" for line in told)
    sys.stderr.writelines(f"{line}\n" for line in beyond)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
