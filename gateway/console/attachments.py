"""Images and files of a command line as the content of a request."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

__all__ = ["content_of"]


def content_of(images: Sequence[str], files: Sequence[str]) -> list[dict[str, Any]] | None:
    """Give the content blocks of images and files, by their paths or URLs; `None` of none.

    Raises `typer.BadParameter` for what cannot be read, or whose type its name does not tell.
    """
    blocks = [
        *(_block("image", given, "--image") for given in images),
        *(_block("file", given, "--file") for given in files),
    ]
    return blocks or None


def _block(kind: str, given: str, option: str) -> dict[str, Any]:
    if given.startswith(("http://", "https://")):
        return {"type": kind, "url": given}
    path = Path(given)
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"{given!r} cannot be read: {error.strerror}"
        raise typer.BadParameter(message, param_hint=option) from error
    if not data:
        message = f"{given!r} is empty"
        raise typer.BadParameter(message, param_hint=option)
    mime_type = mimetypes.guess_type(path.name)[0] or ("text/plain" if _is_text(data) else None)
    if mime_type is None or (kind == "image" and not mime_type.startswith("image/")):
        message = (
            f"the name of {given!r} does not say what it is: end it as its type does (.png, .pdf)"
        )
        raise typer.BadParameter(message, param_hint=option)
    block: dict[str, Any] = {
        "type": kind,
        "base64": base64.b64encode(data).decode(),
        "mime_type": mime_type,
    }
    if kind == "file":
        block["extras"] = {"filename": path.name}
    return block


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data
