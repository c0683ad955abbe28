"""Images and files of a command line as the content of a request."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import typer

from millstream.schemas.content import is_type_of_text, type_of
from millstream.schemas.topics import INPUT_BYTES_MAX

__all__ = ["content_of"]

_FILE_BYTES_MAX: Final = INPUT_BYTES_MAX // 4 * 3


def content_of(images: Sequence[str], files: Sequence[str]) -> list[dict[str, Any]] | None:
    """Give the content blocks of images and files, by their paths or URLs; `None` of none.

    A file's type is what its data begins as, else what its name says. Raises `typer.BadParameter`
    for what cannot be read, is more than a record can hold, or whose type nothing tells.
    """
    blocks = [
        *(_block("image", given, "--image") for given in images),
        *(_block("file", given, "--file") for given in files),
    ]
    return blocks or None


def _block(kind: str, given: str, option: str) -> dict[str, Any]:
    if given.lower().startswith(("http://", "https://")):
        return {"type": kind, "url": given}
    path = Path(given)
    data = _read(path, given, option)
    encoded = base64.b64encode(data).decode()
    mime_type = type_of(encoded) or _named(path.name, data)
    if kind == "image" and not (mime_type or "").startswith("image/"):
        message = f"{given!r} is no image that models take: PNG, JPEG, GIF or WebP"
        raise typer.BadParameter(message, param_hint=option)
    if mime_type is None:
        message = f"the name of {given!r} does not say what it is: end it as its type does (.pdf)"
        raise typer.BadParameter(message, param_hint=option)
    block: dict[str, Any] = {"type": kind, "base64": encoded, "mime_type": mime_type}
    if kind == "file":
        block["extras"] = {"filename": path.name}
    return block


def _read(path: Path, given: str, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        message = f"{given!r} cannot be read: {error.strerror}"
        raise typer.BadParameter(message, param_hint=option) from error
    if not data:
        message = f"{given!r} is empty"
        raise typer.BadParameter(message, param_hint=option)
    if len(data) > _FILE_BYTES_MAX:
        message = (
            f"{given!r} has more than the {_FILE_BYTES_MAX // 1000} kB that a record can hold in "
            "base64: make it smaller, or give its URL"
        )
        raise typer.BadParameter(message, param_hint=option)
    return data


def _named(name: str, data: bytes) -> str | None:
    """Give a type by a file's name; machines know few names of files of text, or odd ones."""
    mime_type, packed_by = mimetypes.guess_type(name)
    if _is_text(data):
        return mime_type if mime_type is not None and is_type_of_text(mime_type) else "text/plain"
    return mime_type if packed_by is None else f"application/{packed_by}"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data
