"""From the name of an app to the app: its module is imported, within a time, whatever it does.

A file inside of a package is imported by its package's name, from the folder above the package. So
`orders/app.py` and `orders.app` are one module, and its test imports the same one.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

from millstream.schemas.errors import Misconfigured
from millstream.schemas.reasons import words_of
from millstream.streams.apps.app import App
from millstream.streams.apps.checks import shown_path
from millstream.streams.apps.name import AppName

__all__ = ["IMPORT_MAX_S", "load_app"]

IMPORT_MAX_S = 60.0
"""So long may an app take to be imported."""

DEFAULT_NAME = "app"


def load_app(name: AppName, *, within_s: float = IMPORT_MAX_S) -> App:
    """Import an app. To be called in the main thread, since the time is kept by a signal there.

    Raises `Misconfigured` with file and line where it does not import, takes longer, exits, or
    there is no app in it.
    """
    module = _imported(name, within_s)
    found = {key: value for key, value in vars(module).items() if isinstance(value, App)}
    wanted = name.attribute or DEFAULT_NAME
    if wanted in found:
        return found[wanted]
    where = shown_path(Path(name.where)) if name.is_file else name.where
    if name.attribute is not None and hasattr(module, name.attribute):
        kind = type(getattr(module, name.attribute)).__name__
        raise Misconfigured(f"{where}: {name.attribute} is a {kind}, not an App")
    if name.attribute is None and len(found) == 1:
        return next(iter(found.values()))
    if found:
        known = ", ".join(f"`{where}:{each}`" for each in sorted(found))
        raise Misconfigured(f"{where}: there is no app called {wanted!r}; there are {known}")
    raise Misconfigured(f"{where}: there is no app in it: write `{wanted} = App(…)`")


def _imported(name: AppName, within_s: float) -> ModuleType:
    module, where = name.where, name.where
    if name.is_file:
        root, module = _module_of(Path(name.where))
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        where = shown_path(Path(name.where))
    elif "" not in sys.path:
        sys.path.insert(0, "")
    try:
        with _time_limit(within_s):
            imported = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except _TooLong as late:
        message = (
            f"{where}: it is not imported after {within_s:g} s; it was at {late}. "
            "Do what takes time when it is needed, not as the module is imported"
        )
        raise Misconfigured(message) from None
    except Misconfigured as error:  # as of a tool that is declared there, which says where
        raise Misconfigured(f"{_place_of(error, where)}: {error}") from error
    except SyntaxError as error:
        file = shown_path(Path(error.filename or where))
        at = file if error.lineno is None else f"{file}:{error.lineno}"
        raise Misconfigured(f"{at}: {error.msg}") from error
    except BaseException as error:
        raise Misconfigured(_not_imported(error, name, where)) from error
    if name.is_file:
        _check_is_of(imported, Path(name.where), where)
    return imported


def _not_imported(error: BaseException, name: AppName, where: str) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if not name.is_file and missing in (name.where, name.where.partition(".")[0]):
        return (
            f"{where}: there is no module {missing!r}, in {Path.cwd()} or installed: go to the "
            "folder that holds it, or name the app by its file, as `orders/app.py`"
        )
    words = f"{type(error).__name__}: {words_of(error)}".removesuffix(": ")
    return f"{_place_of(error, where)}: it does not import: {words}"


def _check_is_of(imported: ModuleType, path: Path, where: str) -> None:
    """Raise `Misconfigured` where the file's name is another module's, as `json.py`'s is."""
    origin = getattr(imported, "__file__", None)
    if origin is not None and Path(origin).resolve() == path.resolve():
        return
    message = (
        f"{where}: Python has another module called {imported.__name__!r} "
        f"({origin or 'built in'}), which is imported in its place: rename the file"
    )
    raise Misconfigured(message)


def _module_of(path: Path) -> tuple[Path, str]:
    """Give the folder that a file is imported from, and its module's name there."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _place_of(error: BaseException, where: str) -> str:
    """Give file and line where it was raised: in a file beside the app's, or else anywhere."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename not in _MACHINERY
    ]
    folder = str(Path(where).absolute().parent)
    own = [frame for frame in frames if frame.filename.startswith(folder)]
    if not frames:
        return where
    newest = (own or frames)[-1]
    return f"{shown_path(Path(newest.filename))}:{newest.lineno}"


_MACHINERY = frozenset({__file__, importlib.__file__})


class _TooLong(BaseException):
    """Interrupts an import; no `Exception`, which an app's code may catch."""


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """Raise `_TooLong` in the block after `limit_s`; in another thread than the main one, never."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_number: int, frame: FrameType | None) -> None:
        at = "an unknown place" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        raise _TooLong(at)

    before = signal.signal(signal.SIGALRM, late)
    # Again each second, for what catches it.
    signal.setitimer(signal.ITIMER_REAL, limit_s, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
