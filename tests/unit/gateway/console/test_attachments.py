from __future__ import annotations

from pathlib import Path

import pytest
import typer

from millstream.gateway.commands.submit import request_of
from millstream.gateway.console.attachments import content_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(4)


def test_images_and_files_are_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    (tmp_path / "README").write_text("read me", encoding="utf-8")
    given = content_of(
        [str(tmp_path / "cat.png"), "https://a.org/b.png"], [str(tmp_path / "README")]
    )
    assert given is not None
    request = request_of(user_id="ada", input="", content=given)
    assert request.content is not None
    assert [one.label for one in request.content] == [
        *("[image/png, 12 B]", "[image at a.org/b.png]", "[text/plain, 7 B]")
    ]
    assert content_of((), ()) is None


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("missing.png", None, "cannot be read: No such file"),
        ("empty.png", b"", "is empty"),
        ("cat", PNG, "does not say what it is"),
        ("cat.pdf", b"%PDF-1", "does not say what it is"),
    ],
)
def test_what_cannot_be_an_image_is_refused(
    tmp_path: Path, name: str, data: bytes | None, told: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(typer.BadParameter, match=told):
        content_of([str(tmp_path / name)], ())


def test_an_image_of_another_type_than_its_name_says_is_refused_without_its_data(
    tmp_path: Path,
) -> None:
    (tmp_path / "cat.jpg").write_bytes(PNG)
    with pytest.raises(typer.BadParameter, match="the data is image/png") as refused:
        request_of(user_id="a", input="", content=content_of([str(tmp_path / "cat.jpg")], ()))
    assert "iVBOR" not in str(refused.value)
