"""Files that hold secrets: nobody but their owner reads them, and nobody sees half of one."""

import os
from pathlib import Path

__all__ = ["private_folder", "write_private"]

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone may enter (0700), whatever the umask is."""
    path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    path.chmod(_FOLDER_MODE)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file, mode 0600, so that a reader sees the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    # What a crash left behind may have another mode.
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
