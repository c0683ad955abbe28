"""What listeners are told of a run's states: whatever comes when, each step is a legal one."""

from __future__ import annotations

from millstream.agents.loop.telling.events import CallbackEvent
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.loop.telling.run_states import raise_illegal
from millstream.schemas.lane_events import HoldPlaced
from millstream.streams.lane.runs.telling.run_states import RunStates
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.wire.keys import request_key
from tests import making


class Heard(Listeners):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = frozenset({"state"})
        self.states: list[str | None] = []

    def tell(self, event: CallbackEvent) -> None:
        self.states.append(event.state)


def test_a_pause_that_comes_as_a_run_begins_is_told_in_legal_steps() -> None:
    heard, pauses = Heard(), Pauses()
    states = RunStates(heard, lambda: 1, raise_illegal, pauses)
    request = making.resolved("hi")
    key = request_key(request)
    session = (*key[:2], request.session_id)
    pauses.add(HoldPlaced(tenant=key[0], user_id=key[1], request_id=key[2], at_ms=1))
    states.waits(key, session, request.template)
    states.to("running", request, 1000)
    states.to("paused", request, 1000)
    states.ended(request, "cancelled", 1000, None)
    assert heard.states == ["paused", "idle", "running", "paused", "stopped"]
