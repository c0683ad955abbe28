"""An operator's side: templates are applied and retired, and a version names one content for ever.

Who writes fences whoever wrote before, reads the topic whole, and only then decides and writes: so
of two operators at once one sees what the other did, whichever was first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from millstream.agents.templates.sizes import as_written_before
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.control.templates import TemplateApplied
from millstream.schemas.errors import (
    LaneFenced,
    LaneLost,
    Misconfigured,
    ServiceUnavailable,
    UnknownTemplate,
)
from millstream.schemas.ports import ClockMs, wall_clock_ms
from millstream.streams.broker.batches import Outgoing
from millstream.streams.broker.clients import not_reached
from millstream.streams.lane.io import KafkaLaneIO, LaneIO
from millstream.streams.settings import Settings
from millstream.streams.templates.records import (
    AppliedTemplate,
    applied_event,
    read_topic,
    template_of,
    templates_at,
)
from millstream.streams.transactions.producers import CommitRefused, ProducerRotation
from millstream.streams.wire.codec import encode

__all__ = ["Outcome", "TemplateRegistry"]

T = TypeVar("T")

_TRIES_MAX = 5
_PAUSE_S = 0.5
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command on one version: `unchanged` if nothing had to be written."""

    event: TemplateApplied
    done: Literal["applied", "applied_again", "retired", "unchanged"]


class TemplateRegistry:
    """The templates of one namespace, as records."""

    def __init__(
        self, settings: Settings, *, clock_ms: ClockMs = wall_clock_ms, io: LaneIO | None = None
    ) -> None:
        self._settings = settings
        self._where = templates_at(settings)
        self._clock_ms = clock_ms
        self._io = io or KafkaLaneIO(settings)
        self._chance = random.SystemRandom().random

    async def all(self) -> tuple[AppliedTemplate, ...]:
        """Give each version's newest record, in the order in which they were applied.

        Raises `ServiceUnavailable`.
        """
        reader = self._io.reader()
        try:
            await reader.start()
            found, _ = await read_topic(reader, self._where)
        except LaneLost as error:
            raise ServiceUnavailable(f"the templates cannot be read: {error}") from error
        finally:
            await reader.stop()
        return tuple(found.values())

    async def apply(self, templates: tuple[AgentTemplate, ...], *, by: str) -> tuple[Outcome, ...]:
        """Apply versions, all or none; one that was retired, or is not the newest, is again.

        Raises `Misconfigured` for a version that stands for other content, and
        `ServiceUnavailable`, after which they may have been applied: apply them again.
        """

        async def step(producers: ProducerRotation) -> tuple[Outcome, ...]:
            known = {one.key: one for one in await self.all()}
            newest = {
                one.event.name: one.event.version for one in known.values() if not one.event.retired
            }
            outcomes = []
            for template in templates:
                before = known.get((template.name, template.version))
                now_ms = self._clock_ms()
                if before is None:
                    event = applied_event(template, at_ms=now_ms, by=by)
                    outcomes.append(Outcome(event, "applied"))
                    continue
                _require_same(before.event, template)
                # As it stands: an earlier version may have written numbers where none are given.
                changes = {"at_ms": now_ms, "by": by, "retired": False}
                event = before.event.model_copy(update=changes)
                if newest.get(template.name) == template.version:
                    outcomes.append(Outcome(before.event, "unchanged"))
                else:
                    outcomes.append(Outcome(event, "applied_again"))
            await self._write(producers, outcomes)
            return tuple(outcomes)

        return await self._alone(step)

    async def retire(self, name: str, version: str | None, *, by: str) -> tuple[Outcome, ...]:
        """Give a version, or all of a name, to no new run any more.

        Raises `UnknownTemplate` if none was applied, and `ServiceUnavailable`, as `apply` does.
        """

        async def step(producers: ProducerRotation) -> tuple[Outcome, ...]:
            mine = [one.event for one in await self.all() if one.event.name == name]
            if version is not None:
                mine = [one for one in mine if one.version == version]
            if not mine:
                what = f"template {name!r}" + ("" if version is None else f", version {version!r},")
                message = (
                    f"{what} was not applied here; an app's own is retired by taking it out of the "
                    "app (`millstream templates list` shows what was applied)"
                )
                raise UnknownTemplate(message)
            now_ms = self._clock_ms()
            outcomes = [
                Outcome(one, "unchanged")
                if one.retired
                else Outcome(
                    one.model_copy(update={"retired": True, "at_ms": now_ms, "by": by}), "retired"
                )
                for one in mine
            ]
            await self._write(producers, outcomes)
            return tuple(outcomes)

        return await self._alone(step)

    async def _alone(self, step: Callable[[ProducerRotation], Awaitable[T]]) -> T:
        """Do something that reads and then writes, as the only one who does."""
        name = f"{self._settings.namespace}-templates"
        for _ in range(_TRIES_MAX):
            producers = ProducerRotation(
                lambda _: self._io.transactional_producer(name), producers=1, timeout_s=_TIMEOUT_S
            )
            try:
                await producers.start()
                return await step(producers)
            except LaneFenced:
                # Who fences the other at once is fenced in turn.
                await asyncio.sleep(_PAUSE_S * (1 + self._chance()))
            except CommitRefused as error:
                raise Misconfigured(f"a template is too large for a record: {error}") from error
            except LaneLost as error:
                raise not_reached(self._settings, error) from error
            finally:
                await producers.stop()
        message = "others apply templates at the same time: try again"
        raise ServiceUnavailable(message)

    async def _write(self, producers: ProducerRotation, outcomes: list[Outcome]) -> None:
        changes = [one.event for one in outcomes if one.done != "unchanged"]
        if not changes:
            return
        source = f"/{self._settings.namespace}/templates"
        where = self._where
        records = [
            Outgoing(where.topic, where.partition, encode(one, source=source)) for one in changes
        ]
        for record in records:
            if record.encoded.size_bytes > record.bytes_max:
                raise Misconfigured(
                    f"a template has {record.encoded.size_bytes} bytes as a "
                    f"record, more than {record.bytes_max}: shorten it"
                )
        await producers.commit(records)


def _require_same(before: TemplateApplied, template: AgentTemplate) -> None:
    try:
        standing = template_of(before)
        same = standing in (template, as_written_before(template))
    except Misconfigured:  # of a newer version of Millstream
        same = before.digest == applied_event(template, at_ms=0, by=None).digest
    if not same:
        message = (
            f"template {template.name!r}, version {template.version!r}, was applied with other "
            "content, and a version names one content for ever: give this one another `version`"
        )
        raise Misconfigured(message)
