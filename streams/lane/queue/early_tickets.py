"""Waiting until a parked request may be tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from millstream.schemas.ports import ClockMs
from millstream.streams.lane.queue.waiting_line import Ticket

_TIMER_SLACK_S = 0.005


class EarlyTickets:
    """Tells of each ticket that came before its time when that is there, unless it is gone."""

    def __init__(self, clock_ms: ClockMs, on_due: Callable[[Ticket], None]) -> None:
        self._clock_ms = clock_ms
        self._on_due = on_due
        self._timers: set[asyncio.TimerHandle] = set()

    def is_early(self, ticket: Ticket) -> bool:
        """Tell whether a ticket's request may not be tried yet."""
        return ticket.not_before_ms > self._clock_ms()

    def watch(self, ticket: Ticket) -> None:
        """Tell when a ticket's time is there; nothing if it is there already."""
        if not self.is_early(ticket):
            return
        delay_s = (ticket.not_before_ms - self._clock_ms()) / 1000
        loop = asyncio.get_running_loop()

        def due() -> None:
            self._timers.discard(timer)
            if ticket.gone:
                return
            if self.is_early(ticket):  # the wall clock and the loop's differ
                self.watch(ticket)
            else:
                self._on_due(ticket)

        timer = loop.call_later(delay_s + _TIMER_SLACK_S, due)
        self._timers.add(timer)

    def close(self) -> None:
        """Tell of none any more."""
        for timer in self._timers:
            timer.cancel()
