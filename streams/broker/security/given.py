"""Values with the names that they were given by, and secrets that stand in files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from millstream.schemas.errors import Misconfigured

__all__ = ["Given", "is_readable_by_all", "read_secret", "secret_of"]

_SECRET_BYTES_MAX = 65_536


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
    if not literal.get_secret_value():
        raise Misconfigured(f"{name} is empty: set it, or unset it")
    return Given(literal.get_secret_value(), name)


def read_secret(file: Path, *, named: str) -> str:
    """Read a secret: the file's text without the end of its last line, which editors add.

    Raises `Misconfigured` where the file is missing, empty, may not be read, or is no text.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(_SECRET_BYTES_MAX).decode("utf-8")
    except FileNotFoundError:
        raise Misconfigured(f"{named}: there is no file {file}: write the secret to it") from None
    except OSError as error:
        reason = error.strerror or "an error"
        raise Misconfigured(f"{named}: {file} cannot be read ({reason})") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{named}: {file} is not text in UTF-8") from None
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret.strip():
        raise Misconfigured(f"{named}: {file} is empty: write the secret to it")
    if "\n" in secret:
        raise Misconfigured(f"{named}: {file} has several lines: a secret is one line")
    return secret


def is_readable_by_all(file: Path) -> bool:
    """Tell whether every user of this machine may read a file."""
    try:
        return bool(file.stat().st_mode & 0o004)
    except OSError:
        return False
