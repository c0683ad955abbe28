from __future__ import annotations

import base64
from pathlib import Path

import pytest
import typer

from millstream.gateway.commands.submit import request_of
from millstream.gateway.console.attachments import content_of
from millstream.schemas.content import FileContent

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
        ("cat.txt", b"meow", "is no image that models take: PNG, JPEG, GIF or WebP"),
        ("cat.pdf", b"%PDF-1", "is no image that models take"),
        ("large.png", PNG + bytes(712_500), "has more than the 712 kB that a record can hold"),
    ],
)
def test_what_cannot_be_an_image_is_refused(
    tmp_path: Path, name: str, data: bytes | None, told: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(typer.BadParameter, match=told):
        content_of([str(tmp_path / name)], ())


# BerriAI/litellm#24900: a picture saved under another type's name fails the whole call.
def test_a_type_is_what_the_data_says_and_then_the_name(tmp_path: Path) -> None:
    files = {
        "cat.jpg": PNG,
        "run.sql": b"select 1;",
        "notes.txt.gz": b"\x1f\x8b\x08\x00",
        "table.csv": b"a,b",
        "byte-order.txt": b"\xef\xbb\xbfhi",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    given = content_of((), [str(tmp_path / name) for name in files])
    assert given is not None
    assert [one["mime_type"] for one in given] == [
        *("image/png", "text/plain", "application/gzip", "text/csv", "text/plain")
    ]
    request = request_of(user_id="ada", input="", content=given)
    assert request.content is not None
    (*_, last) = request.content
    assert isinstance(last, FileContent)
    assert last.text == "hi"


def test_an_image_of_another_type_than_it_says_is_refused_without_its_data() -> None:
    image = {"type": "image", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/jpeg"}
    with pytest.raises(typer.BadParameter, match="the data is image/png") as refused:
        request_of(user_id="a", input="", content=[image])
    assert "iVBOR" not in str(refused.value)
