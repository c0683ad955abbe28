"""Where this Millstream stands: in a checkout of its repository, or installed in an environment.

A checkout keeps its data and its downloads in its own `.millstream`, wherever a command is typed.
An installed Millstream writes nothing where it is installed: its data stays with the project that
it is used in, and what it downloads goes to the user's cache.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from millstream.schemas.errors import Misconfigured

__all__ = ["HOME", "IS_CHECKOUT", "command", "data_folder", "data_folder_of", "downloads_folder"]

HOME = Path(__file__).resolve().parent.parent
"""The folder of `gateway`, `infra` and `docs`: the checkout's own, or the installed package's."""

IS_CHECKOUT = (HOME / "src" / "millstream").is_dir()
"""Whether this is a checkout."""

_OWN = ".millstream"


def command() -> str:
    """Give how the command line is called from the working folder, for words to be copied.

    It is `./millstream` in a checkout's own folder, its path elsewhere, and `millstream` where a
    search of PATH finds it.
    """
    if not IS_CHECKOUT:
        return "millstream"
    try:
        if Path.cwd() == HOME:
            return "./millstream"
    except OSError:  # the working folder is gone
        pass
    program = HOME / "millstream"
    found = shutil.which("millstream")
    return "millstream" if found and Path(found).resolve() == program else shlex.quote(str(program))


def data_folder() -> Path:
    """Give the folder of the data: the checkout's, else the one of the working folder."""
    return HOME / _OWN / "data" if IS_CHECKOUT else data_folder_of(Path.cwd())


def data_folder_of(folder: Path) -> Path:
    """Find `.millstream/data` of `folder`, or of its nearest parent that has a `.millstream`.

    A parent's counts only if it belongs to this user. A folder that many may write to, as `/tmp`,
    may hold somebody else's, whose note would send every command to a Kafka of his. Where no parent
    has one, the data is `folder`'s own.
    """
    above = (one for one in folder.parents if _is_mine(one / _OWN))
    found = folder if (folder / _OWN).is_dir() else next(above, folder)
    return found / _OWN / "data"


def downloads_folder(named: Path | None) -> Path:
    """Give the folder of what the dev launcher downloads; `named` by MILLSTREAM_CACHE wins.

    Raises `Misconfigured` where the user has no home folder.
    """
    if named is not None:
        return named.expanduser().absolute()
    if IS_CHECKOUT:
        return HOME / _OWN / "cache"
    from millstream.streams.settings import user_cache  # noqa: PLC0415  slow to import

    try:
        return user_cache() / "millstream"
    except RuntimeError as error:
        message = "this user has no home folder: name a folder for downloads in MILLSTREAM_CACHE"
        raise Misconfigured(message) from error


def _is_mine(folder: Path) -> bool:
    try:
        return folder.is_dir() and folder.stat().st_uid == os.getuid()
    except OSError:
        return False
