"""Environments for the peers, from hash-pinned requirements; what stands is not built again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.services import PROJECT

__all__ = ["PythonMissing", "environment"]

Version = tuple[int, int]

_HERE = Path(__file__).resolve().parent


class PythonMissing(Exception):
    """There is no Python that a peer can run on; says what to install."""


def environment(name: str, python_min: Version) -> Path:
    """Give the Python of a peer's environment, which is built if it does not stand.

    Raises `PythonMissing`, and `subprocess.CalledProcessError` if it cannot be built.
    """
    folder = PROJECT / ".millstream" / "peers" / name
    subprocess.run(
        [  # noqa: S607  every POSIX system has it
            "sh",
            str(PROJECT / "infra" / "bootstrap.sh"),
            "environment",
            str(folder),
            str(_HERE / f"{name}.txt"),
            str(_python(python_min)),
        ],
        check=True,
        stdout=sys.stderr,
    )
    return folder / "bin" / "python"


def _python(version_min: Version) -> Path:
    """Find our own Python if it will do, else the version asked for, on the PATH or pyenv's."""
    if sys.version_info >= version_min:
        return Path(sys.executable).resolve()
    wanted = f"{version_min[0]}.{version_min[1]}"
    on_path = shutil.which(f"python{wanted}")
    candidates = [Path(on_path)] if on_path else []
    candidates += sorted((Path.home() / ".pyenv" / "versions").glob(f"{wanted}.*/bin/python"))
    for candidate in candidates:
        # pyenv puts a program on the PATH also for versions that are not in use; it only fails.
        if subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
            return candidate
    raise PythonMissing(
        f"there is no Python {wanted}: install it, for instance by `apt install python{wanted}` "
        f"or `pyenv install {wanted}`"
    )
