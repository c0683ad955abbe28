"""One maker for each event, record and context that tests are about."""

from tests.making.contexts import context, used
from tests.making.events import (
    IDS,
    NOON_MS,
    SOURCE,
    attempt,
    checkpoint,
    cost,
    dead_letter,
    decision,
    head,
    ids,
    obeyed,
    opened,
    request,
    resolved,
    result,
    result_of,
    template_applied,
    token,
)
from tests.making.records import Headers, record

__all__ = [
    "IDS",
    "NOON_MS",
    "SOURCE",
    "Headers",
    "attempt",
    "checkpoint",
    "context",
    "cost",
    "dead_letter",
    "decision",
    "head",
    "ids",
    "obeyed",
    "opened",
    "record",
    "request",
    "resolved",
    "result",
    "result_of",
    "template_applied",
    "token",
    "used",
]
