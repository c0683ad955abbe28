"""A replay of a log in memory passes the contract."""

from __future__ import annotations

import pytest

from tests.contracts.history_contract import HistoryContract
from tests.contracts.worlds import MemoryWorld

pytestmark = pytest.mark.promise("P8")


class TestMemoryHistory(HistoryContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
