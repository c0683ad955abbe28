"""Credentials of MCP servers, read from files, and read again where a file changed."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from millstream.agents.mcp.server import McpServer
from millstream.schemas.errors import Misconfigured

__all__ = ["Credentials"]

BYTES_MAX: Final = 8192

_Stamp = tuple[int, int, int, int]
_PRINTABLE: Final = re.compile(r"[\x20-\x7e\t]+")


class Credentials:
    """What the files of a server hold. No value of one is ever in an error's words."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._read: dict[Path, tuple[_Stamp, str]] = {}

    def headers(self) -> dict[str, str]:
        """Give the headers of a request; raises `Misconfigured`, naming server and field."""
        server = self._server
        given = dict(server.headers)
        for name, file in server.headers_files.items():
            given[name] = self._value(f"headers_files.{name}", file)
        if server.bearer_token_file is not None:
            token = self._value("bearer_token_file", server.bearer_token_file)
            given["Authorization"] = f"Bearer {token}"
        return given

    def environment(self) -> Mapping[str, str]:
        """Give the variables of a program; raises `Misconfigured`, naming server and field."""
        server = self._server
        read = {
            name: self._value(f"env_files.{name}", file) for name, file in server.env_files.items()
        }
        return {**server.env, **read}

    def _value(self, field: str, file: Path) -> str:
        where = f"the MCP server {self._server.name!r}, {field}: {file}"
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                message = f"{where} is no file"
                raise Misconfigured(message)
            if status.st_mode & stat.S_IRWXO:
                message = f"{where} is open to all users of the machine: chmod o-rwx it"
                raise Misconfigured(message)
            if status.st_size > BYTES_MAX:
                message = f"{where} is larger than {BYTES_MAX} bytes"
                raise Misconfigured(message)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            known = self._read.get(file)
            if known is not None and known[0] == stamp:
                return known[1]
            value = file.read_bytes().decode("ascii").strip()
        except OSError as error:
            raise Misconfigured(f"{where} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Misconfigured(f"{where} holds more than plain ASCII text") from None
        if not value:
            message = f"{where} is empty"
            raise Misconfigured(message)
        if _PRINTABLE.fullmatch(value) is None:
            message = f"{where} holds more than one line"
            raise Misconfigured(message)
        self._read[file] = (stamp, value)
        return value
