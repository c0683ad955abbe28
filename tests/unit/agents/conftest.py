"""An executor around the scripted model for each test."""

from __future__ import annotations

import pytest

from tests.harness.agent_runs import Runs


@pytest.fixture
def runs() -> Runs:
    return Runs()
