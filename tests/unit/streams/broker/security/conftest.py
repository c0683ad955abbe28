"""What the tests of security share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.making.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of the test's own."""
    return Authority(tmp_path)
