"""Readers over the broker in memory pass the contract that those over Kafka pass."""

from __future__ import annotations

import pytest

from tests.contracts.reader_contract import ReaderContract
from tests.harness.log_worlds import MemoryWorld


class TestMemoryReader(ReaderContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
