"""One place for the lines of outages: told once, at growing intervals, and when they end.

While no broker answers, clients of Kafka tell of each try, some 200 lines a second. Here the first
line begins an outage and is told; those that follow are counted, and told as a figure. An outage
has ended when nothing was heard of it for a while. What follows from one while it lasts (lanes that
are lost by it, what aiokafka says of the group) is counted with it. What is no outage is told, but
what libraries repeat is told at growing intervals too, with how often it came: no line is without a
trace. An end is told at the level of its beginning, so that no log has the one without the other.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from millstream.streams.telemetry.causes import DENIED, TRANSIENT, is_denied, is_transient

__all__ = ["KAFKA", "REDIS", "RIGHTS", "OutageLog", "UnreadyLog"]

KAFKA = "Kafka"
REDIS = "Redis"
RIGHTS = "rights on Kafka"

_LIBRARIES = ("aiokafka", "faust", "mode")
_GROUP = "aiokafka.consumer.group_coordinator"
"""Who is no longer heard is thrown out and joins anew, which this tells of in several lines."""
_AGAIN_MIN_S = 10.0
_AGAIN_MAX_S = 600.0
_AGAIN_GROWTH = 6
_QUIET_S = 15.0
_LASTS_S = 5.0
_FORGET_S = 900.0
_LINES_KNOWN_MAX = 500
_LOOK_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Repeated:
    """What was heard of one thing: since when, until when, and how much of it was not told."""

    since_s: float
    heard_s: float
    tell_at_s: float
    again_s: float = _AGAIN_MIN_S
    held_back: int = 0
    held_back_in_all: int = 0

    def due(self, now_s: float) -> bool:
        return now_s >= self.tell_at_s

    def told(self, now_s: float) -> int:
        """Note that it was told; gives how many lines of it were held back since it was last."""
        self.tell_at_s = now_s + self.again_s
        self.again_s = min(self.again_s * _AGAIN_GROWTH, _AGAIN_MAX_S)
        held_back, self.held_back = self.held_back, 0
        return held_back

    def hold_back(self) -> None:
        self.held_back += 1
        self.held_back_in_all += 1


class OutageLog:
    """Decides which lines are told. May be called from any thread.

    An outage's end is told by the event loop in which its first line was heard.
    """

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.RLock()
        self._outages: dict[str, _Repeated] = {}
        self._lines: dict[tuple[str, str], _Repeated] = {}

    def filter(self, line: logging.LogRecord) -> bool:
        """Tell whether a line of a library is to be told, as a filter of `logging`."""
        if line.levelno < logging.WARNING or not _of_library(line):
            return True
        with self._lock:
            if is_transient(_error_of(line)) or _tells_of(TRANSIENT, line):
                self._heard(KAFKA, first=line.getMessage())
                return False
            if is_denied(_error_of(line)) or _tells_of(DENIED, line):
                self._heard(RIGHTS, first=line.getMessage())
                return False
            outage = self._lasting(KAFKA)
            if outage is not None and line.name == _GROUP:
                outage.hold_back()
                return False
            return self._is_due(line)

    def process(
        self, _logger: object, _method: str, fields: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Hold back our own lines of an outage, as structlog's processor.

        They say of which `outage` they are, or carry its error. One that may follow from an outage
        says from which, with `during`; it is told where there is none. Raises `DropEvent` for those
        that are held back.
        """
        outage, error = fields.pop("outage", None), _raised(fields.get("exc_info"))
        during = fields.pop("during", None)
        with self._lock:
            if (lasting := self._lasting(str(during))) is not None:
                lasting.hold_back()
                raise structlog.DropEvent
        if outage is None and is_transient(error):
            outage = KAFKA
        if outage is None and is_denied(error):
            outage = RIGHTS
        if outage is not None:
            first = f"{fields.get('event')}: {fields.get('reason', repr(error))}"
            with self._lock:
                self._heard(str(outage), first=first)
            raise structlog.DropEvent
        return fields

    def look(self) -> bool:
        """Tell of outages that last or have ended; tells whether there are any.

        An outage of which nothing was heard lately is not said to last: it may be over.
        """
        now_s = self._clock_s()
        with self._lock:
            for name, one in tuple(self._outages.items()):
                lasted_s = round(one.heard_s - one.since_s, 1)
                if now_s - one.heard_s >= _QUIET_S:
                    del self._outages[name]
                    lines = one.held_back_in_all
                    log.warning("outage ended", of=name, lasted_s=lasted_s, lines_held_back=lines)
                elif one.due(now_s) and now_s - one.heard_s < _LASTS_S:
                    lines = one.told(now_s)
                    log.warning("outage lasts", of=name, for_s=lasted_s, lines_held_back=lines)
            return bool(self._outages)

    def _lasting(self, name: str) -> _Repeated | None:
        """Give an outage that lasts; what follows from one of Kafka's follows from rights, too."""
        one = self._outages.get(name)
        return self._outages.get(RIGHTS) if one is None and name == KAFKA else one

    def _heard(self, name: str, *, first: str) -> None:
        now_s = self._clock_s()
        one = self._outages.get(name)
        if one is not None:
            one.heard_s = now_s
            one.hold_back()
            return
        one = self._outages[name] = _Repeated(now_s, now_s, now_s)
        one.told(now_s)
        log.warning("outage began", of=name, reason=first)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a thread without a loop: the next line finds that the outage lasts
        loop.call_later(_LOOK_S, self._look_on, loop)

    def _look_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.look():
            loop.call_later(_LOOK_S, self._look_on, loop)

    def _is_due(self, line: logging.LogRecord) -> bool:
        now_s = self._clock_s()
        key = (line.name, str(line.msg))
        one = self._lines.get(key)
        if one is None or now_s - one.heard_s >= _FORGET_S:
            if len(self._lines) >= _LINES_KNOWN_MAX:
                self._lines.pop(next(iter(self._lines)))
            one = self._lines[key] = _Repeated(now_s, now_s, now_s)
        one.heard_s = now_s
        if not one.due(now_s):
            one.hold_back()
            return False
        if held_back := one.told(now_s):
            line.msg = f"{line.getMessage()} (and {held_back} lines like this since)"
            line.args = ()
        return True


class UnreadyLog:
    """Tells why a worker is not ready, at growing intervals, and that it is again."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._unready: _Repeated | None = None
        self._told = False

    def tell(self, reasons: Sequence[str]) -> None:
        """Note why it is not ready now; no reason: it is. Call it often."""
        now_s = self._clock_s()
        if not reasons:
            if self._told:
                log.warning("ready again")
            self._unready, self._told = None, False
        elif self._unready is None:  # most of it is over before anybody reads of it
            self._unready = _Repeated(now_s, now_s, now_s + _AGAIN_MIN_S)
        elif self._unready.due(now_s):
            self._unready.told(now_s)
            self._told = True
            for_s = round(now_s - self._unready.since_s)
            log.warning("not ready", why="; ".join(reasons), for_s=for_s)


def _of_library(line: logging.LogRecord) -> bool:
    # Faust's services log under the module of the class that extends them, which is ours.
    return line.name.partition(".")[0] in _LIBRARIES or "/mode/" in line.pathname


def _tells_of(kinds: tuple[type[Exception], ...], line: logging.LogRecord) -> bool:
    """Tell of a line whose error is in its words alone whether it is one of these."""
    words = line.getMessage()
    return any(f"{kind.__name__}: " in words for kind in kinds)


def _raised(exc_info: object) -> BaseException | None:
    found = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if found is True:
        found = sys.exc_info()[1]
    return found if isinstance(found, BaseException) else None


def _error_of(line: logging.LogRecord) -> BaseException | None:
    if line.exc_info and line.exc_info[1] is not None:
        return line.exc_info[1]
    args = line.args if isinstance(line.args, tuple) else ()
    return next((one for one in args if isinstance(one, BaseException)), None)
