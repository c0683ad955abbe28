"""A template as a record, and back; and the topic read whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b

import structlog
from aiokafka import TopicPartition
from pydantic import ValidationError

from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.base import words_of_problem
from millstream.schemas.control.templates import TemplateApplied
from millstream.schemas.dead_letters import RecordTooLarge
from millstream.schemas.errors import Misconfigured, Poison
from millstream.schemas.topics import TEMPLATES
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import Record, decode
from millstream.streams.wire.sizes import record_bytes

__all__ = [
    "AppliedTemplate",
    "applied_event",
    "read_applied",
    "read_topic",
    "template_of",
    "templates_at",
]

log = structlog.get_logger(__name__)

_KEY_CHARS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class AppliedTemplate:
    """A version as its newest record tells it; `offset` says which of a name was applied last."""

    event: TemplateApplied
    offset: int

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return (self.event.name, self.event.version)


def templates_at(settings: Settings) -> TopicPartition:
    """Give where the records stand: one partition, so they have one order."""
    return TopicPartition(settings.topic(TEMPLATES.name), 0)


def applied_event(
    template: AgentTemplate, *, at_ms: int, by: str | None, retired: bool = False
) -> TemplateApplied:
    """Give the record by which a version is applied, or retired."""
    content = template.written()
    return TemplateApplied(
        at_ms=at_ms,
        name=template.name,
        version=template.version,
        content=content,
        digest=blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest(),
        by=by,
        retired=retired,
    )


def template_of(event: TemplateApplied) -> AgentTemplate:
    """Give the template of a record.

    Raises `Misconfigured` that names the fields which this version of Millstream cannot read.
    """
    try:
        template = AgentTemplate.model_validate(event.content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {words_of_problem(one)}" for one in error.errors()
        )
        raise Misconfigured(problems) from error
    if (template.name, template.version) != (event.name, event.version):
        message = f"its content is template {template.name!r}, version {template.version!r}"
        raise Misconfigured(message)
    return template


def read_applied(record: Record) -> TemplateApplied | None:
    """Read a record of the topic; `None`, and the log says so, for one that cannot be read."""
    try:
        size = record_bytes(record.key, record.value, record.headers)
        if size > TEMPLATES.record_bytes_max:
            raise RecordTooLarge(f"it has {size} bytes, at most {TEMPLATES.record_bytes_max}")
        return decode(record, TemplateApplied)
    except Poison as poison:
        # Only operators write here, by commands that check. It must not keep workers from serving.
        log.warning(
            "a record of templates was passed over",
            key=repr(record.key)[:_KEY_CHARS_SHOWN],
            reason=str(poison),
        )
        return None


async def read_topic(
    reader: PartitionReader, where: TopicPartition
) -> tuple[dict[tuple[str, str], AppliedTemplate], int]:
    """Give each version's newest record, in order, and the offset behind the last one.

    Raises `ServiceUnavailable`, and `LaneLost` where a transaction stays open.
    """
    found: dict[tuple[str, str], AppliedTemplate] = {}
    ends = await reader.high_watermarks([where])
    async for record in reader.read(ends):
        if (event := read_applied(record)) is not None:
            one = AppliedTemplate(event, record.offset)
            found.pop(one.key, None)
            found[one.key] = one
    return found, ends[where]
