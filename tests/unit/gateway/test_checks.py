"""What `doctor` finds in an environment that Millstream was installed into."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from millstream.gateway.checks import check_disk, check_requirements, offsets_found
from millstream.streams.consumer.offset_gaps import OffsetGap


def write_package(folder: Path, *wanted: str) -> None:
    info = folder / "an_app-2.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: an-app", "Version: 2.0"]
    lines += [f"Requires-Dist: {one}" for one in wanted]
    (info / "METADATA").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("pydantic>=2", None),
        ("no-such-package>=1; extra == 'local'", None),
        ("no-such-package>=1; python_version < '3'", None),
        ("pydantic>=99", f"pydantic>=99 (there is {metadata.version('pydantic')})"),
        ("no-such-package>=1", "no-such-package>=1 (there is none)"),
    ],
)
def test_a_package_that_another_install_replaced_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, told: str | None
) -> None:
    write_package(tmp_path, wanted)
    monkeypatch.syspath_prepend(str(tmp_path))
    (found,) = check_requirements("an-app")
    if told is None:
        assert (found.level, found.told) == ("ok", "an-app 2.0 has what it asks for")
    else:
        assert (found.level, found.told) == ("wrong", f"an-app asks for {told}")
        assert found.remedy


async def test_a_data_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Below a file not even root may write.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MILLSTREAM_DATA_DIR", str(tmp_path / "file" / "data"))
    (found,) = await check_disk()
    assert found.level == "wrong"
    assert "MILLSTREAM_DATA_DIR" in found.remedy


def test_requests_that_nobody_can_read_any_more_are_told_with_what_to_do() -> None:
    (fine,) = offsets_found(())
    assert fine.level == "ok"
    lost, set_back = offsets_found(
        (OffsetGap("m.requests", 3, 5, 19), OffsetGap("m.control", 0, 1000, 0))
    )
    assert lost.level == set_back.level == "wrong"
    assert "m.requests, partition 3: retention deleted 5 to 19 unread, 14 records" in lost.told
    assert "retention.ms" in lost.remedy
    assert "m.control, partition 0: it ends before 1000" in set_back.told
    assert set_back.remedy
