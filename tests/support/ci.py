"""A plugin of pytest's: what CI does not let pass, a skipped test and one that takes long."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import Any

import pytest

_IN_CI = pytest.StashKey[bool]()
_SHARED_S = pytest.StashKey[float]()
_SETUP_S = pytest.StashKey[float]()
_LIMIT = "seconds_max"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare how long a test of `make test` may take."""
    parser.addini(_LIMIT, "in CI a test that is not `slow` fails beyond so many seconds")


def pytest_configure(config: pytest.Config) -> None:
    """Tell whether this is CI."""
    config.stash[_IN_CI] = os.environ.get("CI") == "true"  # noqa: TID251  the root of the test run


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Note how long a test waits for what it shares with others: the first one starts Kafka."""
    began_s = time.monotonic()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            stash = request._pyfuncitem.stash
            stash[_SHARED_S] = stash.get(_SHARED_S, 0.0) + time.monotonic() - began_s


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped in CI, where everything that a test needs can be had; and what is long.

    Counted are the test and the fixtures of its own, not their end.
    """
    report = yield
    if not item.config.stash[_IN_CI]:
        return report
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    if call.when == "setup":
        item.stash[_SETUP_S] = call.duration - item.stash.get(_SHARED_S, 0.0)
    if call.when == "call" and report.passed and item.get_closest_marker("slow") is None:
        took_s = item.stash.get(_SETUP_S, 0.0) + call.duration
        most_s = float(item.config.getini(_LIMIT) or "inf")
        if took_s > most_s:
            report.outcome = "failed"
            report.longrepr = (
                f"it took {took_s:.1f} s; beyond {most_s:g} s a test is made faster or marked slow"
            )
    return report
