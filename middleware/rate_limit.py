"""An exact sliding window per user, by the broker's time.

At most `requests` admitted requests lie in any span of `window_s`: a request at time t is refused
if as many stand in (t - window, t]. Only admitted requests count, so that a user who keeps asking
is let in again as soon as the oldest one leaves, and `retry_after_s` says when that is.
"""

from __future__ import annotations

import json
from array import array
from itertools import islice
from typing import Any

from millstream.middleware.base import GO_ON, AgentMiddleware, MiddlewareContext, MiddlewareResult
from millstream.middleware.policy import Policy, Rate
from millstream.schemas.base import Event, UserKey, compound_key, partition_key
from millstream.schemas.errors import RateLimited
from millstream.schemas.events import Decision

LATE_MS_MAX = 600_000
"""A request may be this much older than another of its partition and keep its own time.

Records that came with another key were stamped by another partition, and arrive behind. What is
later still is taken to be as late as this and no more. So a user may be forgotten once idle for
longer, and it makes no difference to any decision.
"""

_FORGOTTEN_PER_FOLD_MAX = 2


class RateLimitMiddleware(AgentMiddleware):
    """Refuses with `RateLimited` what would be one too many in the user's window.

    A user's clock never goes back: a request dated before the user's last admitted one is taken to
    have come with it. Memory: 8 bytes for each of a user's newest `requests` admitted requests;
    a user who is idle for longer than the window and `LATE_MS_MAX` is forgotten.
    """

    name = "rate_limit"
    priority = 40
    folds = frozenset({Decision})

    def __init__(self, policy: Policy, *, enabled: bool = True) -> None:
        super().__init__(enabled=enabled)
        self._policy = policy
        self._admitted: dict[UserKey, array[int]] = {}  # the least recently admitted user first
        self._clock_ms = 0
        rates = [policy.defaults.rate, *(grants.rate for grants in policy.users.values())]
        self._window_ms_max = max((rate.window_s * 1000 for rate in rates if rate), default=0)

    @property
    def history_ms(self) -> int:
        """The longest window, and the lateness that is allowed."""
        return self._window_ms_max + LATE_MS_MAX if self._window_ms_max else 0

    @property
    def users_known(self) -> int:
        """How many users' admitted requests are remembered."""
        return len(self._admitted)

    def admit(self, context: MiddlewareContext) -> MiddlewareResult:
        """Count the user's admitted requests in the window that ends now."""
        request = context.request
        rate = self._policy.rules_for(request.tenant, request.user_id).rate
        if rate is None:
            return GO_ON
        times = self._admitted.get((request.tenant, request.user_id))
        if times is None or len(times) < rate.requests:
            return GO_ON
        # The one that has to leave before another fits: it stands `requests` places from the end.
        free_at_ms = times[-rate.requests] + rate.window_s * 1000
        if self._moment(times, context.now_ms) >= free_at_ms:
            return GO_ON
        retry_after_s = (free_at_ms - context.now_ms) / 1000
        return MiddlewareResult(
            RateLimited(
                f"user {partition_key(request.tenant, request.user_id)!r} may make {rate.requests} "
                f"requests in {rate.window_s} s; the next one fits in {retry_after_s:.3f} s",
                retry_after_s=retry_after_s,
            )
        )

    def fold(self, event: Event) -> None:
        """Count an admitted request."""
        if not (isinstance(event, Decision) and event.admitted and self.name in event.passed):
            return
        rate = self._policy.rules_for(event.tenant, event.user_id).rate
        if rate is not None:
            self._count((event.tenant, event.user_id), event.at_ms, rate)
        self._clock_ms = max(self._clock_ms, event.at_ms)
        self._forget_idle()

    @property
    def folded_under(self) -> str:
        """How many admitted requests are kept, of whom, and for how long: rates alone say that."""
        users = {
            compound_key(*user): _kept(rules.rate)
            for user, rules in sorted(self._policy.rules.items())
        }
        default = _kept(self._policy.rules_of_others.rate)
        return json.dumps(
            {
                "window_ms_max": self._window_ms_max,
                "default": default,
                "users": {user: kept for user, kept in users.items() if kept != default},
            }
        )

    def can_load(self, state: Any, folded_under: str) -> bool:
        """Tell whether nothing that may still count was left out under other rates.

        Of a user at most so many requests were kept as the rate of then said, and none of one
        without a rate, or who had been idle for longer than the longest window of then. So
        smaller rates find all that they count, and greater ones do where no user had reached the
        smaller one within the window.
        """
        before = json.loads(folded_under)
        if self._window_ms_max > before["window_ms_max"]:
            return False
        out_ms = state["clock_ms"] - LATE_MS_MAX - self._window_ms_max
        now = json.loads(self.folded_under)
        for user in (None, *before["users"], *now["users"]):
            if _kept_of(user, before) is None and _kept_of(user, now) is not None:
                return False
        start = 0
        for *user_key, count in zip(state["tenants"], state["users"], state["counts"], strict=True):
            user = compound_key(*user_key)
            then, wanted = _kept_of(user, before) or 0, _kept_of(user, now) or 0
            if wanted > then and count >= then and state["times_ms"][start] > out_ms:
                return False
            start += count
        return True

    def state(self) -> Any:
        """Give the clock, and each user's admitted requests, the least recent user first.

        In columns: a list for each of many users would take the garbage collector long.
        """
        times = array("q")
        for each in self._admitted.values():
            times.extend(each)
        return {
            "clock_ms": self._clock_ms,
            "tenants": [tenant for tenant, _ in self._admitted],
            "users": [user_id for _, user_id in self._admitted],
            "counts": list(map(len, self._admitted.values())),
            "times_ms": times.tolist(),
        }

    def canonical(self) -> Any:
        """Give the clock, and in order each user's admitted requests that can still count.

        What is out of every window does not, whether it is forgotten yet or not.
        """
        out_ms = self._clock_ms - LATE_MS_MAX - self._window_ms_max
        counting = {
            user: [at_ms for at_ms in times if at_ms > out_ms]
            for user, times in self._admitted.items()
        }
        admitted = [[user, times] for user, times in sorted(counting.items()) if times]
        return {"clock_ms": self._clock_ms, "admitted": admitted}

    def load(self, state: Any) -> None:
        """Take in what `state` gave, of each user as much as the user's rate says now."""
        self._clock_ms = state["clock_ms"]
        times = array("q", state["times_ms"])
        end = 0
        for tenant, user_id, count in zip(
            state["tenants"], state["users"], state["counts"], strict=True
        ):
            end += count
            kept = _kept(self._policy.rules_for(tenant, user_id).rate)
            if kept is not None:
                self._admitted[tenant, user_id] = times[max(end - count, end - kept) : end]

    def _count(self, user: UserKey, at_ms: int, rate: Rate) -> None:
        times = self._admitted.pop(user, None)
        if times is None:
            times = array("q")
        times.append(self._moment(times, at_ms))
        del times[: -rate.requests]
        self._admitted[user] = times

    def _moment(self, times: array[int], at_ms: int) -> int:
        """Give the user's time: never before the last admitted, nor far behind the partition's."""
        return max(at_ms, times[-1] if times else 0, self._clock_ms - LATE_MS_MAX)

    def _forget_idle(self) -> None:
        """Forget users whose last request is out of every window that can still be asked about."""
        for user in list(islice(self._admitted, _FORGOTTEN_PER_FOLD_MAX)):
            if self._admitted[user][-1] + self._window_ms_max > self._clock_ms - LATE_MS_MAX:
                return
            del self._admitted[user]


def _kept(rate: Rate | None) -> int | None:
    """Give how many admitted requests of a user are kept, `None` for one without a rate."""
    return None if rate is None else rate.requests


def _kept_of(user: str | None, rates: Any) -> int | None:
    """Give the same of a user by what `folded_under` says; `None` as user: one not listed."""
    kept: int | None = rates["users"].get(user, rates["default"])
    return kept
