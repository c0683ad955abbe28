"""Whether this process can do its work, as named checks that its root adds."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Check", "Readiness"]

Check = Callable[[], str | None]
"""Gives the reason why a part is not ready, `None` when it is; returns at once."""


class Readiness:
    """The checks of a process; with none it is ready."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        """Ask `check` from now on; a name's later check replaces its earlier one."""
        self._checks[name] = check

    def remove(self, name: str) -> None:
        """Ask no more for `name`."""
        self._checks.pop(name, None)

    def reasons(self) -> dict[str, str]:
        """Give what is not ready and why; empty: ready."""
        asked = {name: check() for name, check in self._checks.items()}
        return {name: reason for name, reason in asked.items() if reason is not None}
