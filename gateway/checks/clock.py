"""Time: this machine's clock against the brokers', which stamp every record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import settings_for_client
from millstream.schemas.errors import MillstreamError, Misconfigured
from millstream.streams.broker.diagnosis.clocks import BrokerClock, broker_clocks
from millstream.streams.settings import Settings

__all__ = ["check_clock", "clock_of", "clocks_found"]

NOTE_ABOVE_S = 1.0
WRONG_ABOVE_S = 10.0
"""Deadlines and times to live of some seconds are then over before they begin, or last for twice
as long."""


async def check_clock() -> tuple[Finding, ...]:
    """Whether this machine's clock agrees with those of the brokers."""
    try:
        settings = settings_for_client()
    except MillstreamError:
        return ()  # told by the check of Kafka
    return await clock_of(settings)


async def clock_of(
    settings: Settings, clock: Callable[[], float] = time.time
) -> tuple[Finding, ...]:
    """Compare `clock`, in seconds, with the brokers' clocks."""
    try:
        return clocks_found(await broker_clocks(settings, clock))
    except Misconfigured as error:
        return (Finding("clock", "note", f"not known: {error}", _UNKNOWN_REMEDY),)
    except MillstreamError as error:
        return (Finding("clock", "note", f"not known: {error}", "run it again; see `kafka` above"),)


def clocks_found(clocks: tuple[BrokerClock, ...]) -> tuple[Finding, ...]:
    """Give what is to be said of brokers' clocks."""
    if not clocks:
        told = "not known: the topics are not stamped by the brokers, or have no leader"
        return (Finding("clock", "note", told, "see `topics` above"),)
    apart = [one for one in clocks if abs(one.ahead_s) > NOTE_ABOVE_S]
    if not apart:
        within_s = max(max(abs(one.least_s), abs(one.most_s)) for one in clocks)
        told = f"within {within_s * 1000:.0f} ms of {_named(clocks)}"
        return (Finding("clock", "ok", told),)
    ahead = [one for one in apart if one.ahead_s > 0]
    behind = [one for one in apart if one.ahead_s < 0]
    return tuple(_apart(alike) for alike in (ahead, behind) if alike)


def _apart(alike: list[BrokerClock]) -> Finding:
    """Tell of brokers that are all ahead of this machine, or all behind it."""
    by_s = max(abs(one.ahead_s) for one in alike)
    way, effect = ("behind", _BEHIND) if alike[0].ahead_s > 0 else ("ahead of", _AHEAD)
    told = f"this machine is {by_s:.1f} s {way} {_named(alike)}: {effect}"
    return Finding("clock", "wrong" if by_s > WRONG_ABOVE_S else "note", told, _REMEDY)


def _named(clocks: Iterable[BrokerClock]) -> str:
    numbers = [str(one.broker) for one in clocks]
    return f"broker{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


_BEHIND = (
    "a worker here lets runs go on so long after their deadline, and sessions after their time to "
    "live; deadlines that are given here are so much too early, and `--since` reaches back too far"
)

_AHEAD = (
    "a worker here ends runs so long before their deadline; deadlines that are given here are so "
    "much too late, and `--since` leaves out the oldest records"
)

_REMEDY = "have both keep time by NTP: `timedatectl`, or `chronyc tracking`, says whether they do"

_UNKNOWN_REMEDY = (
    "mend what `topics` and `rights` say, or run it as a worker's user; `chronyc tracking` on both "
    "machines says how far their clocks are off"
)
