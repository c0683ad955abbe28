from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millstream.agents.mcp.credentials import Credentials
from millstream.agents.mcp.server import McpServer
from millstream.schemas.errors import Misconfigured


def secret(path: Path, value: str | bytes = "s3cret", mode: int = 0o600) -> Path:
    path.write_bytes(value.encode() if isinstance(value, str) else value)
    path.chmod(mode)
    return path


def over_http(**fields: Any) -> Credentials:
    return Credentials(McpServer(name="orders", url="http://a.test", **fields))


def test_headers_come_from_files_and_from_them_again_when_they_change(tmp_path: Path) -> None:
    token = secret(tmp_path / "token", "first\n")
    key = secret(tmp_path / "key", "k")
    credentials = over_http(
        bearer_token_file=token, headers_files={"x-key": key}, headers={"a": "b"}
    )
    assert credentials.headers() == {"a": "b", "x-key": "k", "Authorization": "Bearer first"}
    secret(token, "second, longer")
    assert credentials.headers()["Authorization"] == "Bearer second, longer"


def test_a_programs_variables_come_from_files(tmp_path: Path) -> None:
    key = secret(tmp_path / "key", "k")
    server = McpServer(name="orders", command="a", env={"A": "b"}, env_files={"KEY": key})
    assert Credentials(server).environment() == {"A": "b", "KEY": "k"}


@pytest.mark.parametrize(
    ("value", "mode", "words"),
    [
        (None, 0o600, "cannot be read: No such file"),
        ("", 0o600, "is empty"),
        (" \n", 0o600, "is empty"),
        ("s3cret", 0o644, "open to all users of the machine: chmod o-rwx"),
        ("s3cret\nline", 0o600, "more than one line"),
        (b"s3cret\xff", 0o600, "more than plain ASCII"),
        ("s3cret" * 2000, 0o600, "larger than 8192 bytes"),
    ],
)
def test_a_file_that_will_not_do_is_told_in_a_line_without_what_it_holds(
    tmp_path: Path, value: str | bytes | None, mode: int, words: str
) -> None:
    file = tmp_path / "token"
    if value is not None:
        secret(file, value, mode)
    with pytest.raises(Misconfigured) as raised:
        over_http(bearer_token_file=file).headers()
    told = str(raised.value)
    assert told.startswith(f"the MCP server 'orders', bearer_token_file: {file} ")
    assert words in told
    assert "s3cret" not in told
    assert "\n" not in told


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="is no file"):
        over_http(headers_files={"x-key": tmp_path}).headers()
