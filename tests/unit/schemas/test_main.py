from __future__ import annotations

import json
from pathlib import Path

import pytest

from millstream.schemas.__main__ import PROJECT, main, problems, release, write


def test_what_is_committed_is_fresh_and_breaks_no_reader() -> None:
    assert problems(PROJECT / "docs" / "reference", "0.1.0") == []


def test_a_stale_a_missing_and_a_surplus_file_are_each_told(tmp_path: Path) -> None:
    write(tmp_path, "0.1.0")
    assert problems(tmp_path, "0.1.0") == []
    (tmp_path / "schemas" / "token.json").write_text("{}", encoding="utf-8")
    (tmp_path / "events.md").unlink()
    (tmp_path / "schemas" / "ghost.json").write_text("{}", encoding="utf-8")
    assert problems(tmp_path, "0.1.0") == [
        "schemas/token.json is stale: run `python -m millstream.schemas write`",
        "events.md is stale: run `python -m millstream.schemas write`",
        "schemas/ghost.json is of no event: run `python -m millstream.schemas write`",
    ]
    write(tmp_path, "0.1.0")
    assert problems(tmp_path, "0.1.0") == []


def test_a_break_since_the_newest_release_is_told(tmp_path: Path) -> None:
    write(tmp_path, "0.9.0")
    assert release(tmp_path, "0.9.0") == []
    write(tmp_path, "0.10.0")
    assert release(tmp_path, "0.10.0") == []
    changed = tmp_path / "released" / "0.10.0" / "token.json"
    schema = json.loads(changed.read_text(encoding="utf-8"))
    schema["properties"]["model"] = {"type": "string"}
    changed.write_text(json.dumps(schema), encoding="utf-8")
    assert problems(tmp_path, "0.10.0") == [
        "since 0.10.0: token.model: it was in every record and is gone (breaks the old reader)"
    ]


def test_a_release_is_never_written_over(tmp_path: Path) -> None:
    write(tmp_path, "0.1.0")
    assert release(tmp_path, "0.1.0") == []
    [problem] = release(tmp_path, "0.1.0")
    assert "released already" in problem


def test_a_stale_contract_is_not_released(tmp_path: Path) -> None:
    assert release(tmp_path, "0.1.0")
    assert not (tmp_path / "released").exists()


def test_an_unknown_command_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 2
    assert "write | check | release" in capsys.readouterr().err
