"""The bus in memory passes the bus's contract."""

from __future__ import annotations

import pytest

from tests.contracts.bus_contract import BusContract
from tests.contracts.worlds import MemoryWorld


class TestMemoryBus(BusContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
