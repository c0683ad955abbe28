"""Logs of a process: one stream, standard error, for our own lines and those of libraries.

Standard output is for data. On `console` a line is for people, on `json` it is one JSON object.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from streams.settings import Settings

__all__ = ["configure_logging"]

_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
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
    handler = logging.StreamHandler(to)
    # Faust's services log under the module of the class that extends them, which is ours.
    handler.addFilter(
        lambda line: (
            level <= logging.DEBUG
            or line.levelno >= libraries_level
            or f"{os.sep}mode{os.sep}" not in line.pathname
        )
    )
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
    for own in ("streams", "agents", "middleware", "gateway", "millstream"):
        logging.getLogger(own).setLevel(level)
    structlog.configure(
        processors=(*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _renderers(form: str, *, colors: bool) -> tuple[structlog.typing.Processor, ...]:
    if form == "json":
        return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
    return (structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_plain),)


def _plain(to: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    structlog.dev.plain_traceback(to, exc_info)
