"""Producers in memory pass the contract that Kafka's pass."""

from __future__ import annotations

import pytest

from tests.contracts.producer_contract import ProducerContract
from tests.harness.log_worlds import MemoryWorld


class TestMemoryProducers(ProducerContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
