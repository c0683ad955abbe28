"""Logs of a process: one stream, standard error, for our own lines and those of libraries.

Standard output is for data. On `console` a line is for people, on `json` it is one JSON object.
Our own lines are rendered and written without a detour through `logging`: each result has one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

import orjson
import structlog

from millstream.streams.telemetry.outages import OutageLog

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

__all__ = ["configure_logging"]


@lru_cache(maxsize=1)
def _second(since_epoch: int) -> str:
    return datetime.fromtimestamp(since_epoch, UTC).isoformat()[:19]


def _stamped(
    _logger: Any, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Add the time as structlog's `TimeStamper` writes it, in UTC; lines of a second are many."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    fields["timestamp"] = f"{_second(seconds)}.{nanos // 1000:06d}Z"
    return fields


_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    _stamped,
)


def configure_logging(
    settings: Settings,
    *,
    libraries_level: int = logging.WARNING,
    stream: TextIO | None = None,
) -> None:
    """Set up structlog and `logging`, once per process and before loggers are bound.

    Our own lines are written from `settings.log_level` on, those of libraries from
    `libraries_level`, or from `debug` on if that is asked for. `stream` is standard error.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    form, given = settings.log_format, sys.stderr if stream is None else stream
    colors = given.isatty()
    to = _Sink(given, _renderers(form, colors=colors)[-1])
    outages = OutageLog()
    handler = logging.StreamHandler(to)
    # Faust's services log under the module of the class that extends them, which is ours.
    handler.addFilter(
        lambda line: (
            level <= logging.DEBUG
            or line.levelno >= libraries_level
            or not any(f"{os.sep}{name}{os.sep}" in line.pathname for name in ("faust", "mode"))
        )
    )
    held: tuple[structlog.typing.Processor, ...] = ()
    if level > logging.DEBUG:  # whoever asks for everything gets each line
        handler.addFilter(outages)
        held = (outages.process,)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=(*_SHARED, structlog.stdlib.ExtraAdder()),
            processors=(
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(form, colors=colors),
            ),
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level if level <= logging.DEBUG else max(level, libraries_level))
    for own in ("millstream",):
        logging.getLogger(own).setLevel(level)
    structlog.configure(
        processors=(
            *held,
            *_SHARED,
            *_renderers(form, colors=colors),
        ),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _Lines(to, *names),
    )


class _Sink:
    """Where lines go; it fails no program that logs, be its disk full or its reader gone.

    The first line that can be written after such a time says how many could not.
    """

    def __init__(self, to: TextIO, render: structlog.typing.Processor) -> None:
        self._to = to
        self._render = render
        self._failed = 0

    def write(self, text: str) -> None:
        """Write a line in one piece, at once: other threads write, too."""
        failed = self._failed
        try:
            self._to.write((self._told(failed) if failed else "") + text)
            self._to.flush()
        except (OSError, ValueError):  # ValueError: somebody has closed it
            self._failed += 1
        else:
            self._failed -= failed

    def flush(self) -> None:
        """Do nothing: each line is written at once."""

    def _told(self, failed: int) -> str:
        fields = {
            "event": "this log could not be written: lines may lack before this one",
            "lines": failed,
            "logger": __name__,
            "level": "error",
        }
        return f"{self._render(None, 'error', _stamped(None, 'error', fields))!s}\n"


class _Lines:
    """A logger whose every method writes a rendered line."""

    def __init__(self, to: _Sink, name: str = "") -> None:
        self.name = name
        self._to = to

    def msg(self, line: str) -> None:
        """Write a line."""
        self._to.write(line + "\n")

    debug = info = warning = error = critical = msg


def _renderers(form: str, *, colors: bool) -> tuple[structlog.typing.Processor, ...]:
    if form == "json":
        return (structlog.processors.format_exc_info, _json)
    if colors:
        return (structlog.dev.ConsoleRenderer(colors=True, exception_formatter=_plain),)
    return (structlog.processors.format_exc_info, _console)


def _json(_logger: Any, _method: str, fields: structlog.typing.EventDict) -> str:
    try:
        return orjson.dumps(fields, default=repr).decode()
    except TypeError:  # half a surrogate pair, an integer of more than 64 bits, a key that is none
        return json.dumps(fields, default=repr, skipkeys=True)


_BARE = re.compile(r"[^\s=\"']+")


def _console(_logger: Any, _method: str, fields: structlog.typing.EventDict) -> str:
    """Write what structlog's own renderer writes where there is no terminal, in less time."""
    at, level = fields.pop("timestamp"), fields.pop("level")
    event, name = fields.pop("event"), fields.pop("logger", "")
    exception = fields.pop("exception", None)
    told = " ".join([f"{key}={_shown(fields[key])}" for key in sorted(fields)])
    line = f"{at} [{level:<9}] {event:<30} [{name}] {told}".rstrip()
    return line if exception is None else f"{line}\n{exception}"


def _shown(value: object) -> str:
    # Most of what is told is a number, or a word that needs no look at each of its characters.
    if isinstance(value, str) and (value.isalnum() or _BARE.fullmatch(value)):
        return value
    return repr(value)


def _plain(to: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    structlog.dev.plain_traceback(to, exc_info)
