"""A bar is shown where a person waits for more than two seconds, and nowhere else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from millstream.gateway.console.replay.waiting import Waiting


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def console(*, is_terminal: bool = True) -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, force_terminal=is_terminal, width=100), shown


def test_nothing_is_shown_within_two_seconds(clock: Clock) -> None:
    on, shown = console()
    with Waiting("reading", console=on, clock_s=clock) as waiting:
        clock.now_s = 1.9
        waiting.told(10, 100)
    assert not shown.getvalue()


def test_after_two_seconds_it_says_how_much_is_left_and_is_gone_at_the_end(clock: Clock) -> None:
    on, shown = console()
    with Waiting("reading", console=on, clock_s=clock) as waiting:
        clock.now_s = 2.5
        waiting.told(1_000, 5_000)
        assert "1000/5000" in shown.getvalue()
        clock.now_s = 3.0
        waiting.told(2_000, 5_000)
        assert "2000/5000" in shown.getvalue()
    assert shown.getvalue().endswith("\x1b[1A\x1b[2K") or "\x1b[2K" in shown.getvalue()[-20:]


def test_nothing_is_shown_where_standard_error_is_no_terminal(clock: Clock) -> None:
    on, shown = console(is_terminal=False)
    with Waiting("reading", console=on, clock_s=clock) as waiting:
        clock.now_s = 60.0
        waiting.told(1_000, 5_000)
    assert not shown.getvalue()


def test_bar_makes_room_for_data_on_the_same_terminal(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    on, shown = console()
    with Waiting("reading", console=on, clock_s=clock) as waiting:
        clock.now_s = 2.5
        waiting.told(1_000, 5_000)
        waiting.clear()
        before = shown.getvalue()
        clock.now_s = 4.0
        waiting.told(2_000, 5_000)
        assert shown.getvalue() == before
        clock.now_s = 4.6
        waiting.told(3_000, 5_000)
        assert "3000/5000" in shown.getvalue()
