"""What `doctor` finds in an environment that Millstream was installed into."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from millstream.gateway.checks.installed import check_disk, check_requirements


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
