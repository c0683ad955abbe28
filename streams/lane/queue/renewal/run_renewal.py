"""Runs that wait for weeks: what they go on from is written anew before retention removes it.

Retention counts from when a record was written. A run may wait without an end (paused, or for a
version or tools), and its journal, and the checkpoint that it went on from, would be gone. So once
they are half as old as they may become, their records are copied to the end of their logs, in one
transaction with a record on `parked` that says from where on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from millstream.schemas.base import Event
from millstream.schemas.errors import LaneOutdated, Terminal
from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import CHECKPOINTS, JOURNAL
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output.session_gate import kept_on
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.queue.parking import Parking
from millstream.streams.lane.queue.waiting_line import Ticket
from millstream.streams.lane.state.journals import OpenJournal
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.sessions.places import place_of
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.keys import RequestKey, session_key

__all__ = ["JOURNAL_CHARS_MAX", "RunRenewal"]

log = structlog.get_logger(__name__)

JOURNAL_CHARS_MAX: Final = 16 * 1024 * 1024
"""A journal of more characters of content is not copied: all of it is one transaction."""

_AGAIN_PARTS: Final = 15
"""What could not be written anew is looked at again after this part of the time."""

_GONE_KEPT_MAX: Final = 1000


def _half_ms(context: LaneContext) -> int:
    """Give half as long as the logs keep what a run goes on from."""
    retention = context.settings.retention
    return min(retention.ms(spec) or 0 for spec in (JOURNAL, CHECKPOINTS)) // 2


class RunRenewal:
    """Keeps what the waiting runs of one lane go on from.

    `find` gives the ticket by which a request waits, `None` where it does not any more.
    """

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        parking: Parking,
        find: Callable[[RequestKey], Ticket | None],
    ) -> None:
        limits = context.services.limits
        self._clock_ms = context.services.clock_ms
        after_s = limits.renewed_after_s
        self._after_ms = _half_ms(context) if after_s is None else round(after_s * 1000)
        self._look_every_s = limits.look_who_is_old_every_s
        self._state = state
        self._writer = writer
        self._parking = parking
        self._find = find
        # Those that have a journal, and until when each of them is left alone.
        self._watched: dict[Ticket, int] = {}
        self._purged_at = _GONE_KEPT_MAX

    def watch(self, ticket: Ticket) -> None:
        """Hear of a request that waits from now on."""
        if ticket.journal_ms is None:
            return
        self._watched[ticket] = 0
        if len(self._watched) > self._purged_at:
            self._purge()
            self._purged_at = 2 * len(self._watched) + _GONE_KEPT_MAX

    async def run(self) -> None:
        """Look now and then what has become old. Raises `LaneLost`."""
        while True:
            self._purge()
            for ticket in tuple(self._watched):
                now_ms = self._clock_ms()
                if self._due_ms(ticket) <= now_ms:
                    self._watched[ticket] = now_ms + self._after_ms // _AGAIN_PARTS
                    await self._renew(ticket, now_ms)
            await asyncio.sleep(self._look_every_s)

    def _purge(self) -> None:
        self._watched = {one: due for one, due in self._watched.items() if not one.gone}

    def _due_ms(self, ticket: Ticket) -> int:
        journal = self._state.journals.open.get(ticket.key)
        began_ms = ticket.journal_ms or 0
        if journal is not None and journal.begins_from is not None:
            began_ms = journal.began_ms
        turned_ms = self._state.session_places.turned_ms(place_of(ticket.session))
        oldest_ms = min(began_ms, turned_ms) if turned_ms else began_ms
        return max(oldest_ms + self._after_ms, self._watched.get(ticket, 0))

    async def _renew(self, ticket: Ticket, now_ms: int) -> None:
        """Write anew what a run goes on from, unless it has its turn meanwhile."""
        stands_at = ticket.stands_at
        read = await self._parking.read(ticket)
        if read is None or not read[0].journal_steps:
            return
        parked, traceparent = read
        try:
            steps = await self._journal(ticket.key, parked)
            head = await self._base(ticket, steps[0])
            saved = await self._checkpoint(head, now_ms)
        # A record of a newer version ends the lane of whoever needs it, which this one does not.
        except (Terminal, LaneOutdated) as error:
            # Its turn, if it comes, tells whoever asked.
            log.warning(
                "what a waiting run goes on from cannot be kept", key=ticket.key, reason=str(error)
            )
            return
        # Nobody else may have written, or be about to: from here on nothing is awaited.
        if ticket.gone or self._find(ticket.key) is not ticket or ticket.stands_at is not stands_at:
            return
        once = {"used": (), "cost_micros": None}
        copies = [one.model_copy(update={"renewed_ms": now_ms, **once}) for one in steps]
        again = parked.model_copy(
            update={
                "renewed_ms": now_ms,
                "journal_from": self._writer.next_offsets[JOURNAL.name],
                "journal_from_ms": now_ms,
                "journal_steps": steps[-1].step + 1,
            }
        )
        beside: list[Event] = [*copies]
        if head is not None and saved is not None and self._state.heads.get(ticket.session) == head:
            beside += self._kept(head, saved, now_ms)
            head = None
        committed = self._parking.replace(ticket, again, traceparent, beside)
        try:
            await asyncio.shield(committed)
        except CommitRefused as error:
            log.warning("a waiting run's journal was refused", key=ticket.key, reason=str(error))
            return
        ticket.journal_ms = now_ms
        oldest_ms = now_ms if head is None else max(head.at_ms, now_ms - self._after_ms)
        self._watched[ticket] = oldest_ms + self._after_ms
        log.info("a waiting run's journal was written anew", key=ticket.key, records=len(copies))

    async def _journal(self, key: RequestKey, parked: RunParked) -> tuple[JournalStep, ...]:
        """Give the records of a run's journal. Raises as `JournalLog.records`."""
        known = self._state.journals.open.get(key)
        if known is None or known.begins_from is None:
            known = OpenJournal()
            if parked.journal_from is not None:
                known = await self._writer.journals.find(key, parked.journal_from)
            known.steps = max(known.steps, parked.journal_steps)
        steps = await self._writer.journals.records(key, known)
        chars = sum(len(one.text or "") + len(str(one.content or "")) for one in steps)
        if chars > JOURNAL_CHARS_MAX:
            message = (
                f"its journal has {chars:,} characters, and {JOURNAL_CHARS_MAX:,} are copied at "
                "most; let it go on, or cancel it, before retention removes it"
            )
            raise Terminal(message)
        return steps

    async def _base(self, ticket: Ticket, first: JournalStep) -> SessionUpdated | None:
        """Give the session's head, if the run goes on from what it names. Raises `LaneLost`."""
        base = None if first.began is None else first.began.base_checkpoint_id
        if base is None:
            return None
        await self._writer.sessions.recall(ticket.session)
        head = self._state.heads.get(ticket.session)
        return head if head is not None and head.checkpoint_id == base else None

    async def _checkpoint(self, head: SessionUpdated | None, now_ms: int) -> CheckpointSaved | None:
        """Give the checkpoint that a head names, `None` if it need not be kept.

        Raises `CheckpointUnreadable`, and `LaneLost`.
        """
        if head is None or head.at_ms + self._after_ms > now_ms:
            return None
        return await self._writer.load_checkpoint(head)

    def _kept(self, head: SessionUpdated, saved: CheckpointSaved, now_ms: int) -> Iterator[Event]:
        """Give what keeps a session; commit it in this tick."""
        yield saved.model_copy(update={"renewed_ms": now_ms})
        yield self._writer.renewed_head(head, now_ms)
        state = kept_on(self._state.session_states.get(session_key(head)), now_ms)
        if state is not None:
            self._state.session_states.fold(state)
            yield state
