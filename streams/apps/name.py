"""What an app is called on a command line: by its module, or by its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from millstream.schemas.errors import Misconfigured

__all__ = ["AppName"]


@dataclass(frozen=True, slots=True)
class AppName:
    """Where an app is: a module, or a file, and the name of the app in it.

    Attributes:
        where: A module's dotted name, or the absolute path of a file.
        attribute: The app's name there, `None` for `app`, or else the only one that there is.
    """

    where: str
    attribute: str | None = None

    @classmethod
    def parse(cls, text: str) -> AppName:
        """Read `orders.app:app`, `orders.app`, `orders/app.py` or `orders/app.py:app`.

        A module's file below this folder is meant as a file, so that the app is found from every
        other folder too. Raises `Misconfigured`.
        """
        where, colon, attribute = text.rpartition(":")
        if not colon:
            where, attribute = text, ""
        if not where or (colon and not attribute.isidentifier()):
            message = f"the app {text!r} cannot be read: write `orders.app:app` or `orders/app.py`"
            raise Misconfigured(message)
        path = Path(where)
        if path.suffix != ".py" and "/" not in where:
            below = Path(*where.split("."))
            files = (below.with_suffix(".py"), below / "app.py", below / "__init__.py")
            here = [each for each in files if each.is_file()]
            if not here:
                return cls(where, attribute or None)
            path = here[0]
        elif path.is_dir():
            path /= "app.py"
        if not path.is_file():
            message = f"there is no app at {where}: no file {path}"
            if not path.is_absolute():
                message += f" in {Path.cwd()}; go to the folder that has it, or give its whole path"
            raise Misconfigured(message)
        return cls(str(path.absolute()), attribute or None)

    def __str__(self) -> str:
        """Give what `parse` reads."""
        return self.where if self.attribute is None else f"{self.where}:{self.attribute}"

    @property
    def is_file(self) -> bool:
        """Whether it is a file and no module's name."""
        return self.where.endswith(".py")

    @property
    def folder(self) -> Path | None:
        """The folder of its file, `None` for a module."""
        return Path(self.where).parent if self.is_file else None
