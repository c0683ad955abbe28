"""Groups of commands: what they list, and how a command is imported once it is called for."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final

import typer
from typer.core import TyperGroup

__all__ = ["CommandGroup", "Listed"]

_WIDTH_MAX: Final = 80
_MARGIN: Final = 2


@dataclass(frozen=True, slots=True)
class Listed:
    """A command, or a group of commands, as a list of commands knows it: without importing it.

    `where` is a module of `millstream.gateway.commands` and the name in it, `control.pause:pause`.
    `about` is the first paragraph of its help.
    """

    name: str
    where: str
    about: str

    def imported(self) -> Any:
        """Import the command: a function, or the Typer of a group."""
        module, _, attribute = self.where.partition(":")
        found = getattr(import_module(f"millstream.gateway.commands.{module}"), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(rich_markup_mode=None, add_completion=False)
        alone.command(self.name)(found)
        return typer.main.get_command(alone)


class CommandGroup(TyperGroup):
    """Lists each command with the first sentences of its help, and cuts none of them.

    A command of `listed` is imported when it is called or its own help is asked for: what one
    command needs is no burden on another, nor on the list of all.
    """

    listed: ClassVar[tuple[Listed, ...]] = ()

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        if self.listed:
            self.commands = _Imported(self.listed)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  Typer's own signature
        """Give the names of the commands, in their order."""
        return list(self.commands)

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Have help as wide as the terminal: else it is 50 columns at least."""
        columns = shutil.get_terminal_size().columns
        extra.setdefault("terminal_width", min(columns, _WIDTH_MAX) - _MARGIN)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Say what is wrong with a value without pydantic's word for it, which Typer leaves."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  as above
        """Write the commands beside the first paragraph of their help."""
        rows = [(one.name, one.about) for one in self.listed]
        for name, command in () if rows else self.commands.items():
            if not command.hidden:
                first = inspect.cleandoc(command.help or "").partition("\n\n")[0]
                rows.append((name, " ".join(first.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Imported(MutableMapping[str, Any]):
    """The listed commands by name, each imported when it is taken; names cost nothing."""

    def __init__(self, listed: tuple[Listed, ...]) -> None:
        self._listed: dict[str, Listed] = {one.name: one for one in listed}
        self._taken: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._taken:
            self._taken[name] = self._listed[name].imported()
        return self._taken[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._taken[name] = command

    def __delitem__(self, name: str) -> None:
        del self._listed[name]
        self._taken.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._listed or name in self._taken

    def __iter__(self) -> Iterator[str]:
        return iter({**self._listed, **self._taken})

    def __len__(self) -> int:
        return len({**self._listed, **self._taken})
