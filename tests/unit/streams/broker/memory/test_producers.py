"""Producers in memory pass the contracts that Kafka's pass."""

from __future__ import annotations

import pytest

from tests.contracts.producer_contract import ProducerContract
from tests.contracts.renewed_producer_contract import RenewedProducerContract
from tests.harness.log_worlds import MemoryWorld


class TestMemoryProducers(ProducerContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()


class TestRenewedMemoryProducer(RenewedProducerContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
