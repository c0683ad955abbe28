"""`millstream new`: a folder with an app to begin from."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Final

import typer

from millstream.gateway.console.terminal import print_json, progress_console

__all__ = ["new"]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_ENDING: Final = ".tmpl"


def new(
    name: Annotated[str, typer.Argument(help="The app's name, and that of its folder.")],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was made as a line of JSON.")
    ] = False,
) -> None:
    """Make a folder with an app: a template, a tool, a test and a policy.

    It is a package of Python, so its name has small letters, digits and underscores.
    """
    folder = Path(name)
    _require_fit(folder.name)
    if folder.exists():
        message = f"there is a {folder} already: choose another name"
        raise typer.BadParameter(message)
    folder.mkdir(parents=True)
    told = {"name": folder.name}
    for source in files(__package__).joinpath("scaffold").iterdir():
        if source.name.endswith(_ENDING):
            target = folder / Template(source.name.removesuffix(_ENDING)).substitute(told)
            text = Template(source.read_text(encoding="utf-8")).substitute(told)
            target.write_text(text, encoding="utf-8")
    contents = {
        "app.py": "the app: what a worker runs",
        f"{folder.name}.yaml": "the agent: its prompt, model, tools and limits",
        "tools.py": "a tool, which is a plain function",
        "policy.yaml": "who may do what, how often, for how much",
        f"test_{folder.name}.py": "tests, without Kafka and without a model",
        "pytest.ini": "how pytest runs them",
        "__init__.py": "makes the folder a package",
    }
    if as_json:
        files_made = [
            {"path": str(folder / file), "about": about} for file, about in contents.items()
        ]
        print_json({"app": folder.name, "folder": str(folder), "files": files_made})
        return
    width = max(map(len, contents)) + 2
    progress_console().print(
        f"{folder}/ is made:\n"
        + "".join(f"  {name:<{width}}{what}\n" for name, what in contents.items())
        + f"Now: millstream dev {folder}/app.py\n"
        f"and in another terminal: millstream chat {folder.name}\n"
        "Ask it: What are the opening hours on Friday?\n"
        f"Its tests: pytest {folder}"
    )


def _require_fit(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        message = f"{name!r} cannot be the name of a package: write for instance `{_near(name)}`"
    elif name in sys.stdlib_module_names or name == "millstream":
        message = f"{name!r} is a module of Python or Millstream: choose another name"
    else:
        return
    raise typer.BadParameter(message)


def _near(name: str) -> str:
    """Give the name that is nearest to one that does not fit, or one that does in any case."""
    near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return near if _fits(near) else "orders"


def _fits(name: str) -> bool:
    return (
        _NAME.fullmatch(name) is not None
        and not keyword.iskeyword(name)
        and name not in sys.stdlib_module_names
        and name != "millstream"
    )
