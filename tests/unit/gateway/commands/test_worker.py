"""A worker hears the signals that ask it to stop, and leaves alone what was ignored before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from millstream.gateway.commands.worker import _STOP_SIGNALS, _StopSignals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", _STOP_SIGNALS)
def test_each_signal_to_stop_is_told_and_the_next_ends_the_process(number: signal.Signals) -> None:
    told: list[str] = []
    _StopSignals().tell(lambda: told.append("stop"))
    os.kill(os.getpid(), number)
    assert told == ["stop"]
    assert all(signal.getsignal(one) == signal.SIG_DFL for one in _STOP_SIGNALS)


def test_a_hangup_that_is_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told: list[str] = []
    _StopSignals().tell(lambda: told.append("stop"))
    os.kill(os.getpid(), signal.SIGHUP)
    assert told == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert told == ["stop"]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
