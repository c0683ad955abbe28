"""What the workers of the group have said that they can run, as the group's last deal told it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["GroupTemplates"]


class GroupTemplates:
    """The names of templates that some worker of the group has, this one included."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()

    def tell(self, names: Iterable[str]) -> None:
        """Take in what the group's workers have now."""
        self._names = frozenset(names)

    def have(self, name: str) -> bool:
        """Tell whether some worker has a template of this name."""
        return name in self._names

    def all(self) -> tuple[str, ...]:
        """Give all names, in order."""
        return tuple(sorted(self._names))
