"""What the group's workers have said that they can run, and why this one cannot run the rest."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["GroupTemplates"]


class GroupTemplates:
    """The names of templates that some worker of the group has, this one included.

    Beside them, why this worker cannot run templates that were applied.
    """

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._versions: frozenset[tuple[str, str]] = frozenset()
        # The newest last; and whether new runs would get it.
        self._lacking: dict[tuple[str, str], tuple[str, bool]] = {}

    def tell(self, names: Iterable[str], versions: Iterable[tuple[str, str]] = ()) -> None:
        """Take in what the group's workers have now; `versions` are those with all their tools."""
        self._names, self._versions = frozenset(names), frozenset(versions)

    def have(self, name: str, version: str | None = None) -> bool:
        """Tell whether some worker has a template of this name, in that version if it is given."""
        return name in self._names if version is None else (name, version) in self._versions

    def all(self) -> tuple[str, ...]:
        """Give all names, in order."""
        return tuple(sorted(self._names))

    def cannot_run(self, name: str, version: str, why: str, *, offered: bool) -> None:
        """Take in why this worker cannot run a version; `offered`: it is there for new runs."""
        self.can_run(name, version)
        self._lacking[name, version] = (why, offered)

    def can_run(self, name: str, version: str) -> None:
        """Take in that this worker can run a version."""
        self._lacking.pop((name, version), None)

    def why_not(self, name: str, version: str | None = None) -> str | None:
        """Give why a version that was applied cannot run here, the newest for new runs if `None`.

        `None`: nobody applied it, as far as this worker knows.
        """
        if version is not None:
            why, _ = self._lacking.get((name, version), (None, False))
            return why
        for (called, _), (why, offered) in reversed(self._lacking.items()):
            if called == name and offered:
                return why
        return None
