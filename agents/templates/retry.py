"""How often and when a run is tried again: exponential backoff with jitter, a frozen policy."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from millstream.schemas.base import Frozen

__all__ = ["RetryPolicy"]


class RetryPolicy(Frozen):
    """Attempts of one request by one worker, and the waits between them.

    Only `Retryable` errors are tried again. The wait after failure n is `backoff_first_s` times
    `backoff_factor` to the n-1, at most `backoff_max_s`, of which a random part up to `jitter` is
    taken off: so that those that failed together do not come back together. A provider that says
    when it may be asked again is not asked earlier, and not at all where that is later than
    `retry_after_max_s`.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    # A misspelt field would be a limit that silently does not hold.
    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts_max: Annotated[int, Field(ge=1, le=100)] = 3
    backoff_first_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    backoff_factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    backoff_max_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.5
    retry_after_max_s: Annotated[float, Field(ge=0, le=86_400)] = 600.0

    def delay_s(
        self, failures: int, *, chance: float, retry_after_s: float | None = None
    ) -> float | None:
        """Give the wait after `failures` failed attempts in seconds, `None`: not again.

        `chance` is a random number from 0 to 1, `retry_after_s` what the provider asks for.
        """
        if failures >= self.attempts_max:
            return None
        asked_s = retry_after_s or 0.0
        if asked_s > self.retry_after_max_s:
            return None
        whole_s = self.backoff_first_s * self.backoff_factor ** (failures - 1)
        return max(min(whole_s, self.backoff_max_s) * (1 - self.jitter * chance), asked_s)
