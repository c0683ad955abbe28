"""Groups of commands, whose help is whole sentences at any width of the terminal."""

from __future__ import annotations

import inspect
import shutil
from typing import Any, Final

from typer.core import TyperGroup

__all__ = ["CommandGroup"]

_WIDTH_MAX: Final = 80
_MARGIN: Final = 2


class CommandGroup(TyperGroup):
    """Lists each command with the first sentences of its help, and cuts none of them."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Have help as wide as the terminal: else it is 50 columns at least."""
        columns = shutil.get_terminal_size().columns
        extra.setdefault("terminal_width", min(columns, _WIDTH_MAX) - _MARGIN)
        return super().make_context(info_name, args, parent, **extra)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands beside the first paragraph of their help."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                first = inspect.cleandoc(command.help or "").partition("\n\n")[0]
                rows.append((name, " ".join(first.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
