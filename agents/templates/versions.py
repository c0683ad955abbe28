"""Templates by name and version: the newest of a name for new runs, each version for its own."""

from __future__ import annotations

from collections.abc import Callable

from millstream.agents.templates.sizes import as_written_before
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import Misconfigured, UnknownTemplate

__all__ = ["OnTemplates", "TemplateVersions"]

OnTemplates = Callable[[], None]
"""Hears that templates were added or retired."""


class TemplateVersions:
    """All versions of all templates that one program has.

    A new run gets the version of its template that was added last. A run that has begun keeps its
    version, also when that is retired. Memory: a template of each version ever added.
    """

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], AgentTemplate] = {}
        # Of each name the versions for new runs, the newest one last.
        self._offered: dict[str, list[str]] = {}
        self._listeners: list[OnTemplates] = []

    def on_change(self, listener: OnTemplates) -> Callable[[], None]:
        """Call `listener` whenever templates were added or retired; gives what ends that."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def add(self, template: AgentTemplate, *, replaces: bool = False) -> bool:
        """Add a version, which is the newest of its name from now on; tells if its content is news.

        A version that is known and names no sizes stays so where another process had numbers there.
        Raises `Misconfigured` if the version was given to other content, unless it `replaces` that.
        """
        key = (template.name, template.version)
        known = self._all.get(key)
        if known is not None and not replaces and template == as_written_before(known):
            template = known
        if known is not None and known != template and not replaces:
            message = f"template {template.name!r} changed: give it a version other than "
            raise Misconfigured(message + repr(template.version))
        is_news = known != template
        if is_news:
            self._all[key] = template
        offered = self._offered.setdefault(template.name, [])
        if template.version in offered:
            offered.remove(template.version)
        offered.append(template.version)
        self._tell()
        return is_news

    def retire(self, name: str, version: str | None = None) -> None:
        """Give a version, or all of a name, to no new run any more; those that have it keep it.

        Raises `UnknownTemplate` if there is no such version.
        """
        offered = self._offered.get(name, [])
        if not offered or (version is not None and version not in offered):
            raise UnknownTemplate(self.missing(name, version))
        kept = [] if version is None else [one for one in offered if one != version]
        if kept:
            self._offered[name] = kept
        else:
            del self._offered[name]
        self._tell()

    def find(self, name: str, version: str | None = None) -> AgentTemplate | None:
        """Give a version, retired or not; without one the newest that is not. `None`: not here."""
        if version is None:
            offered = self._offered.get(name)
            if offered is None:
                return None
            version = offered[-1]
        return self._all.get((name, version))

    def newest(self) -> tuple[AgentTemplate, ...]:
        """Give the newest version of each name, in order of the names."""
        return tuple(self._all[name, self._offered[name][-1]] for name in sorted(self._offered))

    def offers(self) -> frozenset[tuple[str, str]]:
        """Give the name and version of all that are here, retired ones too: a run may need them."""
        return frozenset(self._all)

    def names(self) -> tuple[str, ...]:
        """Give the names that new runs may ask for, in order."""
        return tuple(sorted(self._offered))

    def missing(self, name: str, version: str | None = None) -> str:
        """Say that a template is not here, and which are."""
        known = ", ".join(self.names()) or "none"
        if version is None:
            return f"no template is called {name!r}; known: {known}"
        versions = ", ".join(sorted(one for called, one in self._all if called == name))
        if not versions:
            return f"no template is called {name!r}, so not its version {version!r}; known: {known}"
        return f"template {name!r} has no version {version!r} here; known: {versions}"

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()
