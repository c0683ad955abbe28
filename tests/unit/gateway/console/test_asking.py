"""What to ask comes as an argument, on standard input or in a file, and is never nothing."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import typer

from millstream.gateway.console.asking import metadata_of, text_asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "question.txt"


def given(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_an_argument_is_asked_as_it_stands() -> None:
    assert text_asked(" Hi\n", None) == " Hi\n"


def test_nothing_is_nothing() -> None:
    assert text_asked(None, None) == ""


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (b"Hi\n", "Hi"),
        (b"Hi\r\n", "Hi"),
        (b"\xef\xbb\xbfHi", "Hi"),
        (b"a\n\nb\n\n", "a\n\nb\n"),
        ("10\u00a0000 €".encode(), "10\u00a0000 €"),
    ],
)
def test_a_file_and_standard_input_are_read_alike(
    file: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, asked: str
) -> None:
    file.write_bytes(data)
    given(monkeypatch, data)
    assert text_asked(None, file) == text_asked("-", None) == asked
    given(monkeypatch, data)
    assert text_asked(None, Path("-")) == asked


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"a\xff", r"is not text in UTF-8 \(byte 1\)"),
        (b"x" * 1_000_001, "is longer than 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, told: str
) -> None:
    file.write_bytes(data)
    given(monkeypatch, data)
    with pytest.raises(typer.BadParameter, match=told):
        text_asked(None, file)
    with pytest.raises(typer.BadParameter, match=f"standard input {told}"):
        text_asked("-", None)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"question\.txt' cannot be read: No such file"):
        text_asked(None, file)


def test_two_questions_at_once_are_refused(file: Path) -> None:
    with pytest.raises(typer.BadParameter, match="not both"):
        text_asked("Hi", file)


def test_metadata_is_pairs_whose_values_may_hold_anything() -> None:
    assert metadata_of(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize(
    ("pairs", "told"), [(["a"], "is not NAME=VALUE"), (["=1"], "is not"), (["a=1", "a=2"], "twice")]
)
def test_metadata_that_is_none_is_refused(pairs: list[str], told: str) -> None:
    with pytest.raises(typer.BadParameter, match=told):
        metadata_of(pairs)
