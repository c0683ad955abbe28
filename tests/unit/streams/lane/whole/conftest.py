"""A deployment in memory for each test."""

from __future__ import annotations

import pytest

from tests.harness.memory_lanes import MemoryLanes


@pytest.fixture
def world() -> MemoryLanes:
    return MemoryLanes()
