"""A layer of the chain: a customer's next question waits for the answer to the last one."""

from collections import defaultdict
from typing import Any

from millstream import (
    AgentMiddleware,
    AgentResult,
    Decision,
    Event,
    MiddlewareContext,
    MiddlewareResult,
    RateLimited,
)

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
        if self._open.get(_user(context.request.tenant, context.request.user_id)):
            message = "wait for the answer to your last question"
            return MiddlewareResult(RateLimited(message, retry_after_s=5))
        return MiddlewareResult()

    def fold(self, event: Event) -> None:
        """Take in a decision or a result. Decides nothing."""
        match event:
            # In a chain that is cut, the stages behind this layer decide as well.
            case Decision(admitted=True, passed=passed) if self.name in passed:
                open_ = self._open[_user(event.tenant, event.user_id)]
                if event.request_id not in open_:
                    open_.append(event.request_id)
            case AgentResult():
                user = _user(event.tenant, event.user_id)
                still = [one for one in self._open.pop(user, []) if one != event.request_id]
                if still:
                    self._open[user] = still

    def state(self) -> dict[str, list[str]]:
        """Give what was folded, for a snapshot."""
        return {user: list(open_) for user, open_ in self._open.items()}

    def canonical(self) -> dict[str, list[str]]:
        """Give what decides, in one order, however it was folded."""
        return {user: sorted(open_) for user, open_ in sorted(self._open.items())}

    def load(self, state: Any) -> None:
        """Take in what `state` gave."""
        self._open.update(state)


def _user(tenant: str, user_id: str) -> str:
    return f"{tenant}/{user_id}"
