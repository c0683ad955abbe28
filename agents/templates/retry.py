"""How often and when a run is tried again: exponential backoff with jitter, a frozen policy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from millstream.schemas.base import Frozen

__all__ = ["RetryPolicy"]


class RetryPolicy(Frozen):
    """Attempts of one request by one worker, and the waits between them.

    Only `Retryable` errors are tried again. The wait after failure n is `backoff_first_s` times
    `backoff_factor` to the n-1, at most `backoff_max_s`, of which a random part up to `jitter` is
    taken off: so that those that failed together do not come back together.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    attempts_max: Annotated[int, Field(ge=1, le=100)] = 3
    backoff_first_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    backoff_factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    backoff_max_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.5

    def delay_s(self, failures: int, *, chance: float) -> float | None:
        """Give the wait after `failures` failed attempts, `None`: not again.

        `chance` is a random number from 0 to 1.
        """
        if failures >= self.attempts_max:
            return None
        whole_s = self.backoff_first_s * self.backoff_factor ** (failures - 1)
        return min(whole_s, self.backoff_max_s) * (1 - self.jitter * chance)
