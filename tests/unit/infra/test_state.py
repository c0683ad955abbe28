from __future__ import annotations

from pathlib import Path

import pytest

from millstream.infra.errors import DataMismatch
from millstream.infra.state import LauncherState


def test_a_new_folder_begins_with_one_broker_and_a_cluster_id_of_kafkas_form(
    tmp_path: Path,
) -> None:
    state = LauncherState.load(tmp_path, None)
    assert state.brokers == 1
    assert len(state.cluster_id) == 22
    assert not state.cluster_id.startswith("-")


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    state = LauncherState.load(tmp_path, 3).with_ports(("redis",))
    state.save(tmp_path)
    assert LauncherState.load(tmp_path, None) == state


def test_a_folder_of_three_brokers_does_not_start_with_one(tmp_path: Path) -> None:
    LauncherState.load(tmp_path, 3).save(tmp_path)
    with pytest.raises(DataMismatch, match="of 3, not of 1"):
        LauncherState.load(tmp_path, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"brokers": 1}', '{"cluster_id": "a", "x": 1}'])
def test_a_state_that_cannot_be_read_says_how_to_go_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "launcher.json").write_text(text)
    with pytest.raises(DataMismatch, match="make clean"):
        LauncherState.load(tmp_path, None)


def test_a_state_of_a_later_version_is_refused(tmp_path: Path) -> None:
    text = '{"cluster_id": "a", "brokers": 1, "ports": {}, "version": 2}'
    (tmp_path / "launcher.json").write_text(text)
    with pytest.raises(DataMismatch, match="version 2"):
        LauncherState.load(tmp_path, None)


def test_a_secure_folder_stays_secure_and_another_does_not_become_so(tmp_path: Path) -> None:
    LauncherState.load(tmp_path, 1, secure=True).save(tmp_path)
    assert LauncherState.load(tmp_path, None).secure
    with pytest.raises(DataMismatch, match="with TLS"):
        LauncherState.load(tmp_path, None, secure=False)
    plain = tmp_path / "plain"
    plain.mkdir()
    LauncherState.load(plain, 1).save(plain)
    assert "secure" not in (plain / "launcher.json").read_text()
    with pytest.raises(DataMismatch, match="without TLS"):
        LauncherState.load(plain, None, secure=True)
