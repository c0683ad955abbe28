"""Group commits over the broker in memory pass the contract that those on Kafka pass."""

from __future__ import annotations

import pytest

from tests.contracts.committer_contract import CommitterContract
from tests.harness.log_worlds import MemoryWorld


class TestMemoryCommitter(CommitterContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
