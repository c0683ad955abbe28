"""What a parked request waits for: the one idea of what keeps a run from going on.

A request in the line goes on once nothing blocks it. A pause blocks a request or a session, and is
a record of its own on `holds`, since it may come before what it is for. All else is a `Wait` on the
request's ticket, and on its record on `parked`: it is over once it is met, and at the latest at a
time. While it is not, the request is set aside with all of its session behind it, takes no memory,
and holds up nobody else. Crash, cancel, pause, quotas and order within the session are the line's,
whatever is waited for.

To have runs wait for something else, as an approval or a child's result: give it a class here, say
in `Waits` when it is over, put it on `RunParked` and into `wait_of`, and call `look_again` when it
may have come.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from millstream.schemas.errors import UnknownTemplate
from millstream.schemas.lane_events import RunParked
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.queue.parked_log import ParkedHead
from millstream.streams.lane.queue.waiting_line import ForTemplate, Ticket, UntilTime, Wait
from millstream.streams.lane.runs.admission import TemplateRef
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.settings import Settings

__all__ = ["TemplateWaits", "Waits", "left_for", "wait_of"]

log = structlog.get_logger(__name__)

_TIMER_SLACK_S = 0.005
_TELL_AFTER_S = 0.5

TOOLS_LOOK_EVERY_S = 0.5
"""How often it is looked whether tools came that are waited for: nobody tells of them."""


def wait_of(head: ParkedHead | RunParked) -> Wait | None:
    """Give what a request was parked to wait for."""
    if (wanted := head.waits_for) is not None:
        lacks = TemplateRef(wanted.template, wanted.version, wanted.tools)
        return ForTemplate(lacks, wanted.since_ms, head.request.deadline_ms)
    return UntilTime(head.not_before_ms) if head.not_before_ms else None


def left_for(run: Run) -> Wait | None:
    """Give what a run waits for that left memory."""
    if (lacks := run.admission.lacks) is not None:
        return ForTemplate(lacks, run.lacks_since_ms, run.request.deadline_ms)
    return UntilTime(run.not_before_ms) if run.not_before_ms else None


@dataclass(frozen=True, slots=True)
class TemplateWaits:
    """How long requests wait for a template, in s, and what is said when that is over.

    `known_s` is for one that some worker of the group has, `unknown_s` for one of which nobody has
    heard. For the version and the tools that a run began with there is no end: it goes on with
    them, or it is cancelled, or its deadline comes.
    """

    services: LaneServices
    known_s: float
    unknown_s: float

    @classmethod
    def of(cls, settings: Settings, services: LaneServices) -> TemplateWaits:
        """Take them from the settings."""
        return cls(services, settings.template_wait_s, settings.template_unknown_wait_s)

    def has(self, wanted: TemplateRef) -> bool:
        """Tell whether this worker has a template, with the tools that are wanted of it."""
        return self.services.factory.has(wanted.name, wanted.version, wanted.tools)

    def most_s(self, wanted: TemplateRef) -> float:
        """Give how long is waited, from when a lane took the request in hand; perhaps `inf`."""
        if wanted.version is not None:
            return math.inf
        is_known = self.services.group_templates.have(wanted.name)
        return self.known_s if is_known else min(self.unknown_s, self.known_s)

    def in_vain(self, wanted: TemplateRef) -> UnknownTemplate:
        """Give what ends a request whose template did not come."""
        factory, group = self.services.factory, self.services.group_templates
        why_not = group.why_not(wanted.name, wanted.version)
        if wanted.version is not None:
            # Only before a cut of the chain, where there is no line to wait in.
            lacks, remedy = "does not have", "put that version back"
            if why_not is not None:
                lacks, remedy = f"cannot run ({why_not})", "start one that has what it needs"
            message = (
                f"the request was taken on for version {wanted.version!r} of template "
                f"{wanted.name!r}, which this worker {lacks}; {remedy}, then ask anew"
            )
            return UnknownTemplate(message)
        waited_s = self.most_s(wanted)
        waited = f"; waited {waited_s:g} s for a worker that has it" if waited_s else ""
        if why_not is not None:
            message = (
                f"template {wanted.name!r} was applied, and this worker cannot run it: {why_not}"
                f"{waited}; start a worker that has what it needs"
            )
            return UnknownTemplate(message)
        known = ", ".join(sorted({*factory.names, *group.all()})) or "none"
        remedy = (
            "they are other workers' (give apps that differ for good namespaces of their own)"
            if group.have(wanted.name)
            else "check the name, or start a worker that has it before requests for it come"
        )
        message = f"no template is called {wanted.name!r} here; known: {known}{waited}; {remedy}"
        return UnknownTemplate(message)


class Waits:
    """Tells what keeps a lane's requests waiting, and when that may be over.

    `on_over` is called for a ticket that may go on.
    """

    def __init__(
        self,
        services: LaneServices,
        templates: TemplateWaits,
        pauses: Pauses,
        on_over: Callable[[Ticket], None],
    ) -> None:
        self._clock_ms = services.clock_ms
        self.templates = templates
        self._pauses = pauses
        self._on_over = on_over
        self._timers: dict[Ticket, asyncio.TimerHandle] = {}
        self._tools_timer: asyncio.TimerHandle | None = None
        self._telling: dict[TemplateRef, asyncio.TimerHandle] = {}
        # Those that are gone stay until somebody looks.
        self._lacking: dict[TemplateRef, dict[Ticket, None]] = {}

    def blocks(self, ticket: Ticket) -> bool:
        """Tell whether a ticket's request is paused, or waits."""
        return self._pauses.is_paused(ticket.key, ticket.session) or not self.is_over(ticket.wait)

    def is_over(self, wait: Wait | None) -> bool:
        """Tell whether a wait was met, or took as long as it may."""
        if wait is None or self._over_at_ms(wait) <= self._clock_ms():
            return True
        return isinstance(wait, ForTemplate) and self.templates.has(wait.template)

    def _over_at_ms(self, wait: Wait) -> float:
        match wait:
            case UntilTime(at_ms):
                return at_ms
            case ForTemplate(template, since_ms, deadline_ms):
                over_at_ms = since_ms + self.templates.most_s(template) * 1000
                return over_at_ms if deadline_ms is None else min(over_at_ms, deadline_ms)

    def watch(self, ticket: Ticket) -> None:
        """Tell when a ticket's wait is over, unless it is gone; nothing if it is over already."""
        if (known := self._timers.pop(ticket, None)) is not None:
            known.cancel()
        if ticket.gone or ticket.wait is None or self.is_over(ticket.wait):
            return
        if isinstance(ticket.wait, ForTemplate):
            self._lacks(ticket, ticket.wait.template)
        delay_s = (self._over_at_ms(ticket.wait) - self._clock_ms()) / 1000
        if math.isfinite(delay_s):
            loop = asyncio.get_running_loop()
            self._timers[ticket] = loop.call_later(delay_s + _TIMER_SLACK_S, self._due, ticket)

    def change(self, ticket: Ticket, wait: Wait | None) -> None:
        """Have a ticket wait for something else, or for nothing, from now on."""
        if isinstance(before := ticket.wait, ForTemplate):
            self._lacking.get(before.template, {}).pop(ticket, None)
        ticket.wait = wait
        self.watch(ticket)

    def _lacks(self, ticket: Ticket, wanted: TemplateRef) -> None:
        tickets = self._lacking.get(wanted)
        if tickets is None:  # the first one
            tickets = self._lacking[wanted] = {}
            # Most come at once, as an owner takes over: they are told in one line.
            if wanted not in self._telling:
                loop = asyncio.get_running_loop()
                self._telling[wanted] = loop.call_later(_TELL_AFTER_S, self._tell, wanted)
        tickets[ticket] = None
        if wanted.tools:
            self._look_for_tools_later()

    def _tell(self, wanted: TemplateRef) -> None:
        del self._telling[wanted]
        count = self.lacking().get(wanted, 0)
        if not count:
            return
        most_s = self.templates.most_s(wanted)
        others_have_it = self.templates.services.group_templates.have(wanted.name, wanted.version)
        log.warning(
            "requests wait for a template that this worker lacks",
            count=count,
            template=wanted.name,
            version=wanted.version,
            tools=wanted.tools,
            others_have_it=others_have_it,
            # `None`: without an end, of which JSON has no number.
            wait_s=None if math.isinf(most_s) else most_s,
            remedy=_remedy(wanted, others_have_it=others_have_it),
        )

    def _look_for_tools_later(self) -> None:
        if self._tools_timer is None:
            loop = asyncio.get_running_loop()
            self._tools_timer = loop.call_later(TOOLS_LOOK_EVERY_S, self._look_for_tools)

    def _look_for_tools(self) -> None:
        self._tools_timer = None
        self.look_again()
        if any(wanted.tools for wanted in self.lacking()):
            self._look_for_tools_later()

    def _due(self, ticket: Ticket) -> None:
        del self._timers[ticket]
        if ticket.gone:
            return
        if self.is_over(ticket.wait):
            self._on_over(ticket)
        else:  # the wall clock and the loop's differ, or it may take longer now
            self.watch(ticket)

    def look_again(self) -> None:
        """Look which waits are over: something came that may be waited for."""
        for wanted in [one for one in self._lacking if self.templates.has(one)]:
            if (telling := self._telling.pop(wanted, None)) is not None:
                telling.cancel()
            for ticket in self._lacking.pop(wanted):
                if (timer := self._timers.pop(ticket, None)) is not None:
                    timer.cancel()
                if not ticket.gone:
                    self._on_over(ticket)

    def lacking(self) -> dict[TemplateRef, int]:
        """Give the templates that requests wait for, and how many do."""
        for wanted, tickets in tuple(self._lacking.items()):
            for ticket in [one for one in tickets if one.gone]:
                del tickets[ticket]
                if (timer := self._timers.pop(ticket, None)) is not None:
                    timer.cancel()
            if not tickets:
                del self._lacking[wanted]
        return {wanted: len(tickets) for wanted, tickets in self._lacking.items()}

    def close(self) -> None:
        """Tell of none any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for telling in self._telling.values():
            telling.cancel()
        self._telling.clear()
        if self._tools_timer is not None:
            self._tools_timer.cancel()


def _remedy(wanted: TemplateRef, *, others_have_it: bool) -> str:
    if others_have_it:
        return "none: the group hands them over to a worker that has it"
    if wanted.version is None:
        return "check the name that upstreams send, or start a worker that has it"
    return (
        "start a worker that has this version, `millstream runs migrate` them to another, or "
        "`millstream cancel` them; `millstream runs list --state lacking` shows them"
    )
