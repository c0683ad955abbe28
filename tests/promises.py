"""What shows what: `python -m tests.promises` lists the tests of each promise and rule.

The promises and rules are those of `docs/ARCHITECTURE.md`, which alone words them. A test says that
it fails without one by `@pytest.mark.promise("P3")` or `@pytest.mark.rule(7)`. Exits with 1 if one
has no test, if a promise has none on real Kafka in `make test`, or if a mark names none there is.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TESTS = PROJECT / "tests"
PAGE = PROJECT / "docs" / "ARCHITECTURE.md"

_PROMISE = re.compile(r"^\| (P\d+) \| (.+?) \|", re.MULTILINE)
_RULE = re.compile(r"^(\d+)\. \*\*(.+?)\*\*", re.MULTILINE)
_MARK = re.compile(r"\bmark\.(promise|rule)\(")
_SERVICES = "services"
"""The fixture that starts Kafka: a test that needs it, itself or through another, is real."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A test, without its parameters, and what it needs."""

    file: str
    name: str
    is_real: bool
    is_slow: bool


def read_statements(page: str) -> dict[str, str]:
    """Give the promises as `P1`, … and the rules as `1`, … in words, in their order."""
    _, _, rules = page.partition("\n## Rules that make it exact\n")
    found = {name: words.strip() for name, words in _PROMISE.findall(page)}
    return found | dict(_RULE.findall(rules.partition("\n## ")[0]))


def collect() -> dict[str, set[Shown]]:
    """Give the tests by the promise or rule that they are marked with. It starts no service."""
    collector = _Collector()
    with contextlib.redirect_stdout(io.StringIO()) as told:
        options = ["--collect-only", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code = pytest.main([*options, *map(str, _marked())], plugins=[collector])
    if code:
        raise RuntimeError(told.getvalue())
    return collector.found


def _marked() -> Iterator[Path]:
    """Give the files with marks, and those that run the cases of a contract with marks."""
    contracts = [
        path for path in TESTS.glob("contracts/*.py") if _MARK.search(path.read_text("utf-8"))
    ]
    names = [f"tests.contracts.{path.stem} " for path in contracts]
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text("utf-8")
        if _MARK.search(text) or any(name in text for name in names):
            yield path


class _Collector:
    """A plugin of pytest's that notes the marks of what is collected."""

    def __init__(self) -> None:
        self.found: dict[str, set[Shown]] = defaultdict(set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            assert isinstance(item, pytest.Function)
            file, _, name = item.nodeid.partition("::")
            is_real = _SERVICES in item.fixturenames
            is_slow = item.get_closest_marker("slow") is not None
            shown = Shown(file, name.partition("[")[0], is_real, is_slow)
            for kind in ("promise", "rule"):
                for mark in item.iter_markers(kind):
                    self.found[str(mark.args[0])].add(shown)


def gaps(statements: Mapping[str, str], found: Mapping[str, Iterable[Shown]]) -> Iterator[str]:
    """Say what is not shown, and which marks name nothing."""
    for name in statements:
        tests = list(found.get(name, ()))
        if not tests:
            yield f"{name}: no test shows it"
        elif name.startswith("P") and not any(one.is_real and not one.is_slow for one in tests):
            yield f"{name}: no test on real Kafka in `make test`"
    for name in sorted(found.keys() - statements.keys()):
        yield f"{name}: {PAGE.name} has no such promise or rule"


def lines(statements: Mapping[str, str], found: Mapping[str, Iterable[Shown]]) -> Iterator[str]:
    """Give the table: each statement and its tests by file, with what they run on."""
    for name, words in statements.items():
        yield f"{name}  {words}"
        by_file: dict[str, list[Shown]] = defaultdict(list)
        for one in sorted(found.get(name, ()), key=lambda one: (one.file, one.name, one.is_slow)):
            by_file[one.file].append(one)
        for file, tests in by_file.items():
            yield f"    {file}{' (real Kafka)' if any(one.is_real for one in tests) else ''}"
            for one in tests:
                yield f"        {one.name.replace('::', ' ')}{' (slow)' if one.is_slow else ''}"
        yield ""


def main() -> int:
    """Print the table and what is missing in it; give the exit code."""
    statements = read_statements(PAGE.read_text("utf-8"))
    found = collect()
    missing = list(gaps(statements, found))
    sys.stdout.writelines(f"{line}\n" for line in lines(statements, found))
    sys.stderr.writelines(f"{line}\n" for line in missing)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
