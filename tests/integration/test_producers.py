"""Producers of Kafka pass the contracts that those in memory pass."""

from __future__ import annotations

import pytest

from millstream.streams.settings import Settings
from tests.contracts.producer_contract import ProducerContract
from tests.contracts.renewed_producer_contract import RenewedProducerContract
from tests.harness.log_worlds import KafkaWorld


class TestKafkaProducers(ProducerContract):
    @pytest.fixture
    def world(self, settings: Settings) -> KafkaWorld:
        return KafkaWorld(settings)


class TestRenewedKafkaProducer(RenewedProducerContract):
    @pytest.fixture
    def world(self, settings: Settings) -> KafkaWorld:
        return KafkaWorld(settings)
