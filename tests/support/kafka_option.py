"""A plugin of pytest's: on which kind of Kafka and Redis the tests run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the choice."""
    parser.addoption(
        "--kafka",
        choices=("plaintext", "secure"),
        default="plaintext",
        help="secure: the launcher's, with TLS, passwords and an authoriser, where each role has "
        "its own rights and nothing else (tests/services/users.py)",
    )
