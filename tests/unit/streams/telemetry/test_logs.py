"""Logs of our own and of libraries go to one stream, in one form."""

from __future__ import annotations

import errno
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import pytest
import structlog

from millstream.streams.settings import Settings
from millstream.streams.telemetry.logs import configure_logging


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configuration = structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configuration)


def lines(settings: Settings) -> list[str]:
    stream = io.StringIO()
    configure_logging(settings, stream=stream)
    structlog.get_logger("millstream.streams.lane.lane").info("lane open", partition=3)
    structlog.get_logger("millstream.streams.lane.lane").debug("detail")
    logging.getLogger("aiokafka.client").info("chatter")
    logging.getLogger("aiokafka.client").warning("trouble with %s", "node 1")
    return stream.getvalue().splitlines()


def test_json_has_one_object_per_line_with_time_level_and_logger() -> None:
    told = [json.loads(line) for line in lines(Settings(log_format="json"))]
    assert [(one["event"], one["level"], one["logger"]) for one in told] == [
        ("lane open", "info", "millstream.streams.lane.lane"),
        ("trouble with node 1", "warning", "aiokafka.client"),
    ]
    assert told[0]["partition"] == 3
    assert told[0]["timestamp"].endswith("Z")


def test_the_time_of_a_line_is_the_second_and_its_millionths_in_utc() -> None:
    before = datetime.now(UTC)
    stamps = [json.loads(line)["timestamp"] for line in lines(Settings(log_format="json"))]
    assert [len(stamp) for stamp in stamps] == [len("2026-11-25T17:00:00.000000Z")] * 2
    first, second = map(datetime.fromisoformat, stamps)
    assert before <= first <= second <= datetime.now(UTC)


def test_console_lines_are_plain_where_there_is_no_terminal() -> None:
    told = lines(Settings())
    assert len(told) == 2
    assert "lane open" in told[0]
    assert "\x1b" not in "".join(told)


def test_the_level_of_the_settings_holds() -> None:
    assert lines(Settings(log_format="json", log_level="error")) == []
    told = lines(Settings(log_format="json", log_level="debug"))
    assert [json.loads(one)["event"] for one in told] == [
        "lane open",
        "detail",
        "chatter",
        "trouble with node 1",
    ]


def test_what_json_can_hardly_say_is_written_all_the_same() -> None:
    stream = io.StringIO()
    configure_logging(Settings(log_format="json"), stream=stream)
    log = structlog.get_logger("millstream.streams")
    log.info("odd", half="\ud800", large=2**70, thing=Settings)
    told = json.loads(stream.getvalue())
    assert (told["half"], told["large"]) == ("\ud800", 2**70)
    assert "Settings" in told["thing"]


def test_a_console_line_can_be_taken_apart() -> None:
    stream = io.StringIO()
    configure_logging(Settings(), stream=stream)
    structlog.get_logger("millstream.streams").warning(
        "dead letter", source="a-0-1", why='it is = "x"\n'
    )
    (line,) = stream.getvalue().splitlines()
    assert "[warning  ] dead letter" in line
    assert line.endswith("[millstream.streams] source=a-0-1 why='it is = \"x\"\\n'")


def test_an_exception_is_written_with_its_traceback() -> None:
    stream = io.StringIO()
    configure_logging(Settings(log_format="json"), stream=stream)
    try:
        int("broken")
    except ValueError:
        structlog.get_logger("millstream.streams").exception("failed")
    assert "ValueError: invalid literal" in json.loads(stream.getvalue())["exception"]


class FullDisk(io.StringIO):
    """A stream that can be written only at times, as one on a disk that fills up."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize("form", ["console", "json"])
def test_lines_that_cannot_be_written_fail_nobody_and_are_counted(
    form: Literal["console", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = FullDisk()
    configure_logging(Settings(log_format=form), stream=stream)
    ours = structlog.get_logger("millstream.streams.lane.lane")
    ours.info("lane open")
    logging.getLogger("aiokafka.client").warning("trouble")
    stream.full = False
    ours.info("lane open again")
    lacking, again = stream.getvalue().splitlines()
    assert "this log could not be written" in lacking
    assert ('"lines":2' if form == "json" else "lines=2") in lacking
    assert "lane open again" in again
    assert capsys.readouterr().err == ""
    stream.close()
    ours.info("nobody hears this")
