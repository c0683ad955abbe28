"""What every test may use: how to wait for a condition."""

from tests.support.waiting import eventually

__all__ = ["eventually"]
