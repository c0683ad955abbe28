"""A layer of the chain: a customer's next question waits for the answer to the last one."""

from collections import defaultdict
from typing import Any

from millstream import AgentMiddleware, MiddlewareContext, MiddlewareResult
from millstream.schemas.base import Event
from millstream.schemas.errors import RateLimited
from millstream.schemas.events import AgentResult, Decision

HOUR_MS = 3_600_000


class OneAtATime(AgentMiddleware):
    """Turns away what a customer asks while an answer to them is under way.

    What it knows is a fold of decisions and results. So it is the same after a restart, and on
    whichever worker owns the customer's partition.
    """

    name = "one_at_a_time"
    priority = 15
    folds = frozenset({Decision, AgentResult})

    def __init__(self) -> None:
        """Begin without open requests."""
        super().__init__()
        self._open: dict[str, list[str]] = defaultdict(list)

    @property
    def history_ms(self) -> int:
        """No request of this app is under way for longer."""
        return HOUR_MS

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        """Refuse a second one. Changes nothing."""
        if self._open.get(_user(context.request)):
            message = "wait for the answer to your last question"
            return MiddlewareResult(RateLimited(message, retry_after_s=5))
        return MiddlewareResult()

    def fold(self, event: Event) -> None:
        """Take in a decision or a result. Decides nothing."""
        match event:
            case Decision(admitted=True):
                self._open[_user(event)].append(event.request_id)
            case AgentResult(request_id=request_id):
                still = [one for one in self._open.pop(_user(event), []) if one != request_id]
                if still:
                    self._open[_user(event)] = still

    def state(self) -> dict[str, Any]:
        """Give what was folded, for a snapshot."""
        return {user: list(open_) for user, open_ in self._open.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take in what `state` gave."""
        self._open.update(state)


def _user(event: Event) -> str:
    return f"{event.tenant}/{event.user_id}"
