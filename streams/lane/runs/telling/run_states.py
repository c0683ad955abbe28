"""The states of a lane's runs, told to listeners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from millstream.agents.loop.telling.events import CallbackEvent, EventKind
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.loop.telling.run_states import (
    ENDED,
    IllegalTransition,
    OnIllegal,
    RunState,
    check,
    state_after,
)
from millstream.schemas.base import Reason
from millstream.schemas.events import ResolvedRequest, ResultStatus
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.ports import ClockMs
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.wire.keys import RequestKey, SessionKey, request_key

__all__ = ["RunStates"]


@dataclass(slots=True)
class _Run:
    """Of a run that is not plainly waiting: its state, and what its events are to say."""

    state: RunState
    session_id: str
    template: str
    attempt: int
    was_resumed: bool = False


class RunStates:
    """The runs of one lane that are not `idle`, which is every other's state.

    Memory: some 0.3 kB for each that is in memory, or was paused by this owner of the lane.
    """

    def __init__(
        self, listeners: Listeners, clock_ms: ClockMs, on_illegal: OnIllegal, pauses: Pauses
    ) -> None:
        self._pauses = pauses
        self._listeners = listeners
        self._clock_ms = clock_ms
        self._on_illegal = on_illegal
        self._runs: dict[RequestKey, _Run] = {}

    @classmethod
    def of(cls, services: LaneServices, pauses: Pauses) -> RunStates:
        """Make them for a lane with these pauses."""
        return cls(services.listeners, services.clock_ms, services.on_illegal, pauses)

    def state_of(self, key: RequestKey) -> RunState:
        """Give the state of a run that has not ended."""
        run = self._runs.get(key)
        return "idle" if run is None else run.state

    def to(
        self,
        state: RunState,
        request: ResolvedRequest,
        attempt: int,
        *,
        reason: Reason | None = None,
    ) -> None:
        """Take in that a run is in another state now; nothing if it is in that already."""
        key = request_key(request)
        before = self.state_of(key)
        if before == state:
            return
        known = self._runs.get(key)
        if known is None:
            known = _Run("idle", request.session_id, request.template, attempt)
        if before == "paused" and state == "running":
            # The pause came as it began: it takes hold before its first call, and is told again.
            known.was_resumed = True
            self._go(key, known, before, "idle", attempt, None)
            known.was_resumed, before = False, "idle"
        self._go(key, known, before, state, attempt, reason)

    def ended(
        self, request: ResolvedRequest, status: ResultStatus, attempt: int, reason: Reason | None
    ) -> None:
        """Take in that a run has ended."""
        self.to(state_after(status), request, attempt, reason=reason)

    def waits(self, key: RequestKey, session: SessionKey, template: str) -> None:
        """Take in that a run waits for its turn: if it is paused, it is told to be."""
        if self._pauses.is_paused(key, session):
            run = self._runs.get(key) or _Run("idle", session[-1], template, 0)
            if run.state == "idle":
                self._go(key, run, "idle", "paused", run.attempt, None)

    def lifted(self, hold: HoldPlaced) -> None:
        """Take in that a hold was lifted: paused runs that nothing else holds wait their turn."""
        user = (hold.tenant, hold.user_id)
        if hold.session_id is None:
            held = [(*user, str(hold.request_id))]
        else:
            session = hold.session_id
            held = [
                key
                for key, run in self._runs.items()
                if (key[:2], run.session_id) == (user, session)
            ]
        for key in held:
            run = self._runs.get(key)
            if run is None or run.state != "paused":
                continue
            if not self._pauses.is_paused(key, (*key[:2], run.session_id)):
                run.was_resumed = True
                self._go(key, run, "paused", "idle", run.attempt, None)

    def take_resumed(self, key: RequestKey) -> bool:
        """Tell whether a run was resumed since its last attempt; asked again, it was not."""
        run = self._runs.get(key)
        if run is None or not run.was_resumed:
            return False
        run.was_resumed = False
        return True

    def tell(self, kind: EventKind, request: ResolvedRequest, attempt: int, **told: Any) -> None:
        """Tell listeners of something else in a run."""
        if kind in self._listeners.kinds:
            self._tell(
                kind, request_key(request), request.session_id, request.template, attempt, told
            )

    def _go(  # noqa: PLR0917  what is known of it
        self,
        key: RequestKey,
        run: _Run,
        before: RunState,
        after: RunState,
        attempt: int,
        reason: Reason | None,
    ) -> None:
        try:
            check(before, after)
        except IllegalTransition as error:
            self._on_illegal(error)
        if after in ENDED or (after == "idle" and not run.was_resumed):
            self._runs.pop(key, None)
        else:
            run.state, run.attempt = after, attempt
            self._runs[key] = run
        if "state" in self._listeners.kinds:
            told = {"state": after, "from_state": before, "reason": reason}
            self._tell("state", key, run.session_id, run.template, attempt, told)

    def _tell(  # noqa: PLR0917  what an event says of its run
        self,
        kind: EventKind,
        key: RequestKey,
        session_id: str,
        template: str,
        attempt: int,
        told: dict[str, Any],
    ) -> None:
        tenant, user_id, request_id = key
        self._listeners.tell(
            CallbackEvent(
                kind=kind,
                at_ms=self._clock_ms(),
                tenant=tenant,
                user_id=user_id,
                session_id=session_id,
                request_id=request_id,
                template=template,
                attempt=attempt,
                **told,
            )
        )
