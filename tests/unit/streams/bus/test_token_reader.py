"""The reader of an answer passes its contract on the bus in memory."""

from __future__ import annotations

import pytest

from tests.contracts.token_reader_contract import TokenReaderContract
from tests.contracts.worlds import MemoryWorld

pytestmark = pytest.mark.promise("P3")


class TestMemoryTokenReader(TokenReaderContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
