"""The registry of named tools that templates draw from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from langchain_core.tools import BaseTool

from millstream.agents.tool_schemas import arguments_of, with_checked_schema
from millstream.agents.tools.declared import AnyTool, as_tool, place_of, rules_of
from millstream.agents.tools.rules import ToolRules
from millstream.schemas.errors import Misconfigured

__all__ = ["ToolRegistry", "ToolSource"]


ToolSource = Callable[[str], tuple[str, ...] | None]
"""Gives the names of tools that a name or glob in a template means; `None` if it knows none."""


_UNDECLARED: Final = ToolRules()

_OF_MIDDLEWARES: Final = {"write_todos": ToolRules(effect="read_only")}
"""LangChain's own, which write to the run's state and nowhere else."""


class ToolRegistry:
    """Tools by name, filled before the templates that use them are registered.

    `generation` grows with each tool that another one replaces: agents built before are outdated.
    """

    def __init__(self, tools: Iterable[AnyTool] = ()) -> None:
        self._given: dict[str, AnyTool] = {}
        self._tools: dict[str, BaseTool] = {}
        self._rules: dict[str, ToolRules] = {}
        self._absent: frozenset[str] = frozenset()
        self._sources: list[ToolSource] = []
        self._expanded: dict[tuple[str, ...], tuple[int, tuple[str, ...]]] = {}
        self.generation = 0
        self._arguments: dict[str, frozenset[str] | None] = {}
        for tool in tools:
            self.register(tool)

    def register(self, tool: AnyTool, rules: ToolRules | None = None) -> None:
        """Add a plain function, a LangChain tool, or one that was declared with its rules.

        `rules` go before those that it was declared with; a tool without any has effects that only
        a person can judge. Raises `Misconfigured`, with the tool's name and place, where another
        tool has its name, for a function that lacks type hints or a docstring, for an argument
        that no call could give, for a schema that is none, and for a generator.
        """
        made = as_tool(tool)
        checked = with_checked_schema(made)
        if made.name in self._tools and made.name not in self._given:
            message = f"there are two tools called {made.name!r}, one a server's: rename one"
            raise Misconfigured(message)
        known = self._given.setdefault(made.name, tool)
        if known is not tool:
            message = (
                f"there are two tools called {made.name!r}, {place_of(known)} and "
                f"{place_of(tool)}: rename one, for instance with @tool(name=…)"
            )
            raise Misconfigured(message)
        self._tools[made.name] = checked
        self._arguments[made.name] = arguments_of(checked)
        self._rules[made.name] = rules or rules_of(made) or ToolRules()

    def replace(self, tool: BaseTool, rules: ToolRules, *, is_absent: bool = False) -> None:
        """Add a tool, or put it in the place of the one of its name; from any thread.

        For tools that come and go while runs are served; one that `is_absent` stands for a tool
        that is not there now, and says so to whoever calls it. Raises `Misconfigured` as `register`
        does, and where the name is that of a tool that was registered.
        """
        checked = with_checked_schema(tool)
        if (known := self._given.get(tool.name)) is not None:
            message = f"there are two tools called {tool.name!r}, one {place_of(known)}: rename one"
            raise Misconfigured(message)
        # Whoever reads meanwhile reads the dictionaries as they were.
        self._rules = {**self._rules, tool.name: rules}
        self._arguments = {**self._arguments, tool.name: arguments_of(checked)}
        self._tools = {**self._tools, tool.name: checked}
        self._absent = self._absent | {tool.name} if is_absent else self._absent - {tool.name}
        self.generation += 1

    @property
    def absent(self) -> frozenset[str]:
        """The names of tools that are not there now, though templates have them."""
        return self._absent

    def add_source(self, source: ToolSource) -> None:
        """Have templates name tools by what `source` understands as well."""
        self._sources.append(source)
        self.generation += 1

    def expand(self, names: Iterable[str]) -> tuple[str, ...]:
        """Give the names of the tools that a template's names and globs mean, each once."""
        wanted = tuple(names)
        if not self._sources:
            return wanted
        generation = self.generation
        known = self._expanded.get(wanted)
        if known is not None and known[0] == generation:
            return known[1]
        found: dict[str, None] = {}
        for name in wanted:
            given = (source(name) for source in self._sources)
            found.update(dict.fromkeys(next((one for one in given if one is not None), (name,))))
        # Once for each template and generation: each request asks for it.
        self._expanded[wanted] = (generation, tuple(found))
        return tuple(found)

    def rules(self, name: str) -> ToolRules:
        """Give what a tool's declaration says of its calls; one of a middleware has none."""
        rules = self._rules.get(name)
        return _OF_MIDDLEWARES.get(name, _UNDECLARED) if rules is None else rules

    def arguments(self, name: str) -> frozenset[str] | None:
        """Give the names that the arguments of a tool may have; `None`: any, or its schema says."""
        return self._arguments.get(name)

    def names(self) -> tuple[str, ...]:
        """Give all names, sorted."""
        return tuple(sorted(self._tools))

    def pick(self, names: Iterable[str]) -> tuple[BaseTool, ...]:
        """Give the tools of these names. Raises `Misconfigured` that lists the known ones."""
        wanted = self.expand(names)
        unknown = [name for name in wanted if name not in self._tools]
        if unknown:
            message = (
                f"no tool is called {', '.join(map(repr, unknown))}; "
                f"known: {', '.join(self.names()) or 'none'}"
            )
            raise Misconfigured(message)
        return tuple(self._tools[name] for name in wanted)
