"""Fixtures of all tests: one Kafka and one Redis per session, fresh settings per test."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from millstream.streams.settings import Settings
from tests.services.running import Services, running_secure_services, running_services
from tests.services.sweeping import Sweeper

pytest_plugins = ["tests.support.ci", "tests.support.durations", "tests.support.kafka_option"]

_ENVIRONMENT = pytest.StashKey[Mapping[str, str]]()
_TOLD = pytest.StashKey[set[str]]()
_GIVEN = "millstream"

# A machine that others use is slow for a moment: an example that takes long says nothing about
# what is tested, and neither does one that takes long to make.
hypothesis_settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("shared machine")


def pytest_configure(config: pytest.Config) -> None:
    """Take Millstream's variables out of the environment: no test depends on who runs it."""
    environment = os.environ  # noqa: TID251  the root of the test run
    taken = {name: at for name, at in environment.items() if name.startswith("MILLSTREAM_")}
    # One of several processes is given what the first one took.
    given = getattr(config, "workerinput", {}).get(_GIVEN, taken)
    config.stash[_ENVIRONMENT] = given
    config.stash[_TOLD] = set()
    for name in taken:
        del environment[name]
    config.add_cleanup(lambda: environment.update(taken))
    _log_plainly()


def _log_plainly() -> None:
    """Have errors that are logged told without their local variables: that takes seconds each."""
    *before, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[*before, renderer])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand a process of its own what it needs to know."""
    node.workerinput[_GIVEN] = dict(node.config.stash[_ENVIRONMENT])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand on which services a process ran its tests on."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_GIVEN] = sorted(session.config.stash[_TOLD])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take note of the services of a process that has ended."""
    node.config.stash[_TOLD].update(getattr(node, "workeroutput", {}).get(_GIVEN, ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell which services the tests ran on."""
    for told in sorted(terminalreporter.config.stash[_TOLD]):
        terminalreporter.write_line(f"services: {told}")


@pytest.fixture(scope="module")
def spared_collector() -> Iterator[None]:
    """Take what earlier tests left out of garbage collection, as a worker does with its modules.

    Else a collection holds every thread for longer than these tests allow code to.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def services(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """One real Kafka and one real Redis, shared by the session: each test has its namespace."""
    if request.config.getoption("--kafka") != "secure":
        yield request.getfixturevalue("plaintext_services")
        return
    with running_secure_services(tmp_path_factory.mktemp("services")) as running:
        request.config.stash[_TOLD].add("; ".join(running.told))
        yield running


@pytest.fixture(scope="session")
def plaintext_services(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """The same where everybody may do everything, also where `services` are secure."""
    data = tmp_path_factory.mktemp("services")
    with running_services(request.config.stash[_ENVIRONMENT], data) as running:
        request.config.stash[_TOLD].add("; ".join(running.told))
        yield running


@pytest.fixture(scope="session")
def sweepers() -> dict[str, Sweeper]:
    """What deletes the topics of tests that have ended, by where their Kafka is."""
    return {}


@pytest.fixture
def settings(
    request: pytest.FixtureRequest,
    services: Services,
    tmp_path: Path,
    sweepers: dict[str, Sweeper],
) -> Iterator[Settings]:
    """Settings of a deployment of its own: fresh topics (not created yet), groups and keys."""
    if request.node.get_closest_marker("plaintext") is not None:
        services = request.getfixturevalue("plaintext_services")
    namespace = f"t-{secrets.token_hex(6)}"
    yield services.settings(namespace=namespace, data_dir=tmp_path)
    if services.credentials is None:
        if services.kafka not in sweepers:
            sweepers[services.kafka] = Sweeper(services.kafka)
        sweepers[services.kafka].over(namespace)
