"""Values with the names that they were given by, and secrets that stand in files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from millstream.schemas.errors import Misconfigured

__all__ = ["Given", "is_no_path", "is_readable_by_all", "read_secret", "secret_of"]

_SECRET_BYTES_MAX = 65_536
_PATH_MAX = 4096


@dataclass(frozen=True, slots=True)
class Given:
    """A value; `named` is what to mend if it is wrong, as `MILLSTREAM_KAFKA_SASL_PASSWORD`.

    No representation of it shows the value, which may be secret.
    """

    value: str = field(repr=False)
    named: str


def secret_of(name: str, literal: SecretStr | None, file: Path | None) -> Given | None:
    """Give the secret of a setting, from its variable or its file; `None` where neither is given.

    `name` is the variable's. Raises `Misconfigured` for both, an empty one, or no file.
    """
    if literal is not None and file is not None:
        message = f"both {name} and {name}_FILE are set: unset one of them"
        raise Misconfigured(message)
    if file is not None:
        return Given(read_secret(file, named=f"{name}_FILE"), f"{name}_FILE")
    if literal is None:
        return None
    # Of a Kubernetes secret, a variable has the end of the line, too.
    secret = _one_line(literal.get_secret_value())
    if not secret.strip():
        raise Misconfigured(f"{name} is empty: set it, or unset it")
    return Given(secret, name)


def read_secret(file: Path, *, named: str) -> str:
    """Read a secret: the file's text without the end of its last line, which editors add.

    Raises `Misconfigured` where the file is missing, empty, may not be read, or is no text.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_SECRET_BYTES_MAX + 1)
            text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise Misconfigured(f"{named}: {file} is not text in UTF-8") from None
        if is_no_path(file) or not file.is_absolute():
            # It may be the secret itself, which no log is to show.
            message = f"{named}: it names no file that can be read: write the secret to a file"
            raise Misconfigured(message) from None
        if isinstance(error, FileNotFoundError):
            message = f"{named}: there is no file {file}: write the secret to it"
            raise Misconfigured(message) from None
        reason = getattr(error, "strerror", None) or "an error"
        raise Misconfigured(f"{named}: {file} cannot be read ({reason})") from None
    if len(data) > _SECRET_BYTES_MAX:
        raise Misconfigured(f"{named}: {file} has more than {_SECRET_BYTES_MAX} bytes")
    secret = _one_line(text)
    if not secret.strip():
        raise Misconfigured(f"{named}: {file} is empty: write the secret to it")
    if "\n" in secret:
        raise Misconfigured(f"{named}: {file} has several lines: a secret is one line")
    return secret


def _one_line(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def is_no_path(path: Path) -> bool:
    """Tell whether it cannot be a file's path: as the PEM itself, where a file is to be named."""
    text = str(path)
    return "-----BEGIN " in text or any(sign in text for sign in "\n\r\0") or len(text) > _PATH_MAX


def is_readable_by_all(file: Path) -> bool:
    """Tell whether every user of this machine may read a file."""
    try:
        return bool(file.stat().st_mode & 0o004)
    except OSError:
        return False
