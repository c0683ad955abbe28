"""Whether this process can do its work, as named parts that its root reports on."""

from __future__ import annotations

__all__ = ["Readiness"]


class Readiness:
    """What is not ready and why. Not ready until a first part was reported on."""

    def __init__(self) -> None:
        self._parts: dict[str, str | None] = {}

    def set(self, name: str, reason: str | None) -> None:
        """Report on a part: the reason why it is not ready, `None` when it is."""
        self._parts[name] = reason

    def reasons(self) -> dict[str, str]:
        """Give what is not ready and why; empty: ready."""
        if not self._parts:
            return {"process": "it is starting"}
        return {name: reason for name, reason in self._parts.items() if reason is not None}
