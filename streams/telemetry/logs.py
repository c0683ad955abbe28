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
    to = sys.stderr if stream is None else stream
    outages = OutageLog()
    handler = logging.StreamHandler(to)
    # Faust's services log under the module of the class that extends them, which is ours.
    handler.addFilter(
        lambda line: (
            level <= logging.DEBUG
            or line.levelno >= libraries_level
            or f"{os.sep}mode{os.sep}" not in line.pathname
        )
    )
    if level > logging.DEBUG:  # whoever asks for everything gets each line
        handler.addFilter(outages)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=(*_SHARED, structlog.stdlib.ExtraAdder()),
            processors=(
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings.log_format, colors=to.isatty()),
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
            outages.process,
            *_SHARED,
            *_renderers(settings.log_format, colors=to.isatty()),
        ),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _Lines(to, *names),
    )


class _Lines:
    """A logger whose every method writes a rendered line."""

    def __init__(self, to: TextIO, name: str = "") -> None:
        self.name = name
        self._to = to

    def msg(self, line: str) -> None:
        """Write a line in one piece: other threads write, too."""
        self._to.write(line + "\n")
        self._to.flush()

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
