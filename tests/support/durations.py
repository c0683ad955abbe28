"""A plugin of pytest's: writes how long each file of tests took, for `make layout`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

DEFAULT = ".millstream/test-durations.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where to write."""
    parser.addoption(
        "--durations-file", metavar="FILE", help=f"write seconds by file of tests, as to {DEFAULT}"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Count for as long as there is something to write, and where all reports arrive."""
    if config.getoption("durations_file") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(Path(str(config.getoption("durations_file")))))


class _Writer:
    """Adds up what reports say, and writes it at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0] or report.location[0]
        self._seconds[file] += report.duration

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        by_length = {file: round(seconds, 2) for file, seconds in self._seconds.most_common()}
        self._path.write_text(json.dumps(by_length, indent=2) + "\n", encoding="utf-8")
