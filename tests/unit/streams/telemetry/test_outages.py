"""An outage is told once, at growing intervals while it lasts, and when it ends."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest
import structlog
from aiokafka.errors import (
    InvalidTopicError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
)
from structlog.testing import capture_logs

from millstream.streams.telemetry.outages import (
    KAFKA,
    REDIS,
    RIGHTS,
    OutageLog,
    UnreadyLog,
)

REFUSED = ConnectionRefusedError(111, "Connect call failed")


class Clock:
    """A clock that is set by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        """Give the seconds."""
        return self.now_s


class Log:
    """Lines of libraries, and what is told of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.outages = OutageLog(clock_s=self.clock)

    def line(
        self,
        words: str,
        *args: object,
        name: str = "aiokafka",
        level: int = logging.ERROR,
        error: BaseException | None = None,
    ) -> str | None:
        """Write a line; gives it as it is told, `None` if it is held back."""
        raised = (type(error), error, None) if error is not None else None
        record = logging.LogRecord(name, level, "client.py", 1, words, args, raised)
        return record.getMessage() if self.outages.filter(record) else None


def test_outage_of_an_hour_is_told_a_few_times_and_with_what_was_held_back() -> None:
    log = Log()
    with capture_logs() as told:
        for _ in range(36_000):
            assert log.line("Unable connect to node with id %s: %s", 1, REFUSED) is None
            log.clock.now_s += 0.1
            log.outages.look()
        log.clock.now_s += 20
        log.outages.look()
    events = [one["event"] for one in told]
    assert events[0] == "outage began"
    assert "Connect call failed" in told[0]["reason"]
    assert events[-1] == "outage ended"
    assert told[-1]["lines_held_back"] == 35_999
    assert set(events[1:-1]) == {"outage lasts"}
    assert len(events) < 15


def test_next_outage_is_told_anew() -> None:
    log = Log()
    with capture_logs() as told:
        for _ in range(2):
            log.line("Failed fetch messages from %s: %s", 1, NodeNotReadyError())
            log.clock.now_s += 20
            log.outages.look()
    assert [one["event"] for one in told] == ["outage began", "outage ended"] * 2
    assert {one["log_level"] for one in told} == {"warning"}


def test_outage_of_a_moment_is_not_said_to_last() -> None:
    log = Log()
    with capture_logs() as told:
        for _ in range(2):
            log.line("Unable connect to node with id %s: %s", 1, REFUSED)
        for _ in range(20):
            log.clock.now_s += 1
            log.outages.look()
    assert [one["event"] for one in told] == ["outage began", "outage ended"]
    assert told[-1]["lines_held_back"] == 1


def test_outage_that_is_heard_of_seldom_is_said_to_last_when_it_is() -> None:
    log = Log()
    with capture_logs() as told:
        for _ in range(3):
            log.line("Unable connect to node with id %s: %s", 1, REFUSED)
            for _ in range(12):
                log.clock.now_s += 1
                log.outages.look()
    lasts = [one for one in told if one["event"] == "outage lasts"]
    assert [one["for_s"] for one in lasts] == [12.0]
    assert "outage ended" not in [one["event"] for one in told]


def test_traceback_of_an_outage_is_held_back_too() -> None:
    with capture_logs() as told:
        assert Log().line("Got exception", name="faust.x", error=NodeNotReadyError()) is None
    assert [one["event"] for one in told] == ["outage began"]


def test_line_that_tells_of_no_outage_is_told_while_one_lasts() -> None:
    log = Log()
    other = InvalidTopicError("requests")
    with capture_logs():
        log.line("Unable connect to node with id %s: %s", 1, REFUSED)
        assert log.line("Failed: %s", other) is not None


@pytest.mark.parametrize(
    "line",
    [
        ("Failed: %s", TopicAuthorizationFailedError("requests")),
        ("Error sending: GroupAuthorizationFailedError: [Error 30] lanes",),
    ],
    ids=["error", "words"],
)
def test_denial_is_told_once_and_then_counted_and_so_is_what_follows_from_it(
    line: tuple[object, ...],
) -> None:
    log = Log()
    with capture_logs() as told:
        for _ in range(1000):
            assert log.line(str(line[0]), *line[1:]) is None
            log.clock.now_s += 0.1
            log.outages.look()
        with pytest.raises(structlog.DropEvent):
            log.outages.process(None, "warning", {"event": "lane lost", "during": KAFKA})
    assert told[0]["event"] == "outage began"
    assert {one["of"] for one in told} == {RIGHTS}
    assert len(told) < 5


def test_line_that_a_library_repeats_is_told_with_how_often() -> None:
    log = Log()
    told = []
    for _ in range(100):
        told.append(log.line("Unable to update metadata from %s", [1]))
        log.clock.now_s += 0.15
    shown = [line for line in told if line is not None]
    assert shown == [
        "Unable to update metadata from [1]",
        "Unable to update metadata from [1] (and 66 lines like this since)",
    ]


def test_our_own_lines_and_lower_ones_pass() -> None:
    log = Log()
    for _ in range(2):
        assert log.line("ours", name="millstream.streams.x", error=REFUSED)
        assert log.line("chatter %s", REFUSED, level=logging.INFO)


def test_our_line_of_an_outage_is_held_back_and_counted() -> None:
    outages = OutageLog()
    with capture_logs() as told:
        for _ in range(3):
            with pytest.raises(structlog.DropEvent):
                outages.process(None, "warning", {"event": "away", "reason": "x", "outage": REDIS})
    assert [(one["event"], one["of"], one["reason"]) for one in told] == [
        ("outage began", "Redis", "away: x")
    ]
    for own in (REFUSED, (type(REFUSED), REFUSED, None)):
        with capture_logs(), pytest.raises(structlog.DropEvent):
            outages.process(None, "error", {"event": "a lane failed", "exc_info": own})
    bug = {"event": "a lane failed", "exc_info": ValueError("no")}
    assert outages.process(None, "error", bug) == bug
    other = {"event": "lane open", "partition": 1}
    assert outages.process(None, "info", other) == other


async def test_end_is_told_by_the_loop_that_heard_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[OutageLog.__module__]
    monkeypatch.setattr(module, "_LOOK_S", 0.0)
    log = Log()
    with capture_logs() as told:
        log.line("Unable connect to node with id %s: %s", 1, REFUSED)
        log.clock.now_s += 20
        for _ in range(3):
            await _turn()
    assert [one["event"] for one in told] == ["outage began", "outage ended"]


async def _turn() -> None:
    turned = asyncio.Event()
    asyncio.get_running_loop().call_later(0.001, turned.set)
    await turned.wait()


def test_worker_that_is_not_ready_says_so_at_growing_intervals_and_when_it_is_again() -> None:
    clock = Clock()
    unready = UnreadyLog(clock_s=clock)
    with capture_logs() as told:
        for _ in range(400):
            unready.tell(["no broker answers"])
            clock.now_s += 1
        unready.tell([])
        unready.tell([])
    assert [one["event"] for one in told] == ["not ready"] * 3 + ["ready again"]
    assert [one["for_s"] for one in told[:-1]] == [10, 20, 80]
    assert told[0]["why"] == "no broker answers"
    assert {one["log_level"] for one in told} == {"warning"}


def test_moment_without_readiness_is_not_told() -> None:
    clock = Clock()
    unready = UnreadyLog(clock_s=clock)
    with capture_logs() as told:
        for reasons in (["a lane opens"], [], ["a lane opens"], []):
            unready.tell(reasons)
            clock.now_s += 6
    assert told == []


def test_what_follows_from_an_outage_is_counted_with_it_and_told_where_there_is_none() -> None:
    outages = OutageLog(clock_s=Clock())
    lost = {"event": "lane lost", "during": KAFKA}
    assert outages.process(None, "warning", dict(lost)) == {"event": "lane lost"}
    joins = logging.LogRecord(
        "aiokafka.consumer.group_coordinator", logging.WARNING, "x", 1, "joins anew", (), None
    )
    assert outages.filter(joins)
    with pytest.raises(structlog.DropEvent):
        outages.process(None, "warning", {"event": "fetch", "outage": KAFKA})
    with pytest.raises(structlog.DropEvent):
        outages.process(None, "warning", dict(lost))
    assert not outages.filter(joins)
    assert outages.look()


def test_faust_tells_of_an_error_in_words() -> None:
    outages = OutageLog(clock_s=Clock())
    words = "_on_published error for message topic t error NodeNotReadyError: not ready. message x"
    line = logging.LogRecord("faust.topics", logging.WARNING, "x", 1, words, (), None)
    with capture_logs() as told:
        assert not outages.filter(line)
    assert [one["event"] for one in told] == ["outage began"]
