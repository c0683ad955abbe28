"""Tables cut no name, and JSON reaches a locale that cannot show it."""

from __future__ import annotations

import errno
import io
import json
import sys

import pytest
from rich.cells import cell_len

from millstream.gateway.console.terminal import (
    Lines,
    Unwritable,
    print_data,
    print_json,
    print_table,
    progress_console,
)


@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_name_is_not_cut_however_narrow_the_terminal_is(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    name = "a-namespace-of-some-length." + "dead-letters" * 5
    print_table(("topic", "kept"), [(name, "7 d"), ("x", "30 d")])
    assert capsys.readouterr().out.splitlines() == [
        f"topic{' ' * (len(name) - 5)}  kept",
        f"{name}  7 d",
        f"x{' ' * (len(name) - 1)}  30 d",
    ]


def test_columns_stand_below_each_other_in_every_script(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("who", "what"), [("東京", "a"), ("ada", "b\x1b[2J\nc")])
    heading, wide, narrow = capsys.readouterr().out.splitlines()
    places = {cell_len(heading.partition("what")[0]), cell_len(wide.partition("a")[0])}
    assert places == {len("東京") * 2 + 2}
    assert narrow == "ada   b [2J c"


def test_json_is_whole_where_the_locale_has_no_letters_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_json({"text": "10\u00a0000\u202f€"})
    assert json.loads(raw.getvalue()) == {"text": "10\u00a0000\u202f€"}


class FullDisk(io.StringIO):
    """A stream that takes nothing."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_for_people_ends_no_command_that_cannot_write_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    progress_console().print("ready")


def test_data_that_cannot_be_written_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", FullDisk())
    with pytest.raises(Unwritable, match="No space left on device"):
        print_data("7")


class Writes(io.StringIO):
    """A pipe that tells how often it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def write(self, text: str) -> int:
        self.count += 1
        return super().write(text)


def test_many_lines_are_written_at_once_and_the_rest_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Writes()
    monkeypatch.setattr(sys, "stdout", out)
    with Lines() as lines:
        lines.add("first")
        lines.write()
        assert out.getvalue() == "first\n"
        for number in range(1_000):
            lines.add(f"{number:999}")
    assert lines.count == 1_001
    assert len(out.getvalue().splitlines()) == 1_001
    assert out.count < 100


def test_lines_are_written_also_where_reading_breaks_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def breaks_off() -> None:
        with Lines() as lines:
            lines.add("first")
            lines.add("second")
            raise KeyError

    with pytest.raises(KeyError):
        breaks_off()
    assert capsys.readouterr().out == "first\nsecond\n"
