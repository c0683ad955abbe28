"""The registry of named tools that templates draw from."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.tools import BaseTool

from millstream.agents.tool_schemas import with_checked_schema
from millstream.agents.tools.declared import AnyTool, as_tool, place_of, rules_of
from millstream.agents.tools.rules import ToolRules
from millstream.schemas.errors import Misconfigured

__all__ = ["ToolRegistry"]


class ToolRegistry:
    """Tools by name, filled before the templates that use them are registered."""

    def __init__(self, tools: Iterable[AnyTool] = ()) -> None:
        self._given: dict[str, AnyTool] = {}
        self._tools: dict[str, BaseTool] = {}
        self._rules: dict[str, ToolRules] = {}
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
        known = self._given.setdefault(made.name, tool)
        if known is not tool:
            message = (
                f"there are two tools called {made.name!r}, {place_of(known)} and "
                f"{place_of(tool)}: rename one, for instance with @tool(name=…)"
            )
            raise Misconfigured(message)
        self._tools[made.name] = checked
        self._rules[made.name] = rules or rules_of(made) or ToolRules()

    def rules(self, name: str) -> ToolRules:
        """Give what a tool's declaration says of its calls."""
        return self._rules[name]

    def names(self) -> tuple[str, ...]:
        """Give all names, sorted."""
        return tuple(sorted(self._tools))

    def pick(self, names: Iterable[str]) -> tuple[BaseTool, ...]:
        """Give the tools of these names. Raises `Misconfigured` that lists the known ones."""
        wanted = tuple(names)
        unknown = [name for name in wanted if name not in self._tools]
        if unknown:
            message = (
                f"no tool is called {', '.join(map(repr, unknown))}; "
                f"known: {', '.join(self.names()) or 'none'}"
            )
            raise Misconfigured(message)
        return tuple(self._tools[name] for name in wanted)
