"""Starting a service again that ended by itself, at growing intervals, until it cannot be started.

ended ─> told ─> wait ─> start ─┬─> told ─> watched, and in time as good as new
           ^                    └─> failed: tried again, up to `attempts_max` times in a row
"""

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Never, Protocol

from millstream.infra.errors import NotReady, ServiceDied

__all__ = ["KeptService", "Restarts", "keep"]


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often and when a service is started again.

    The first attempt comes at once, the second after `wait_s`, each later one after twice the time
    of the one before, up to `wait_max_s`. A service that has run for `good_after_s` counts as new.
    After `attempts_max` attempts in a row of which none led to that, it is given up.
    """

    attempts_max: int = 6
    wait_s: float = 1.0
    wait_max_s: float = 30.0
    good_after_s: float = 60.0

    def before(self, attempt: int) -> float:
        """Give the seconds to wait before an attempt; the first is 1."""
        if attempt == 1:
            return 0.0
        return min(self.wait_max_s, self.wait_s * float(2 ** (attempt - 2)))


class KeptService(Protocol):
    """What is asked of a service that is to be kept running."""

    name: str

    async def start(self) -> None:
        """Start it and wait until it answers; raises `ServiceDied` or `NotReady`."""
        ...

    async def kill(self) -> None:
        """SIGKILL, if it runs."""
        ...

    async def wait_death(self) -> ServiceDied:
        """Wait until it ends."""
        ...


async def keep(
    service: KeptService,
    *,
    tell: Callable[[str], object],
    restarted: Callable[[], object],
    restarts: Restarts,
) -> Never:
    """Start `service` again whenever it ends by itself; it must run.

    `tell` is given a line for each end and each return, `restarted` is called at each return.
    Raises what the last attempt raised, with what to do, once the service is given up.
    """
    attempts, good_s = 0, time.monotonic()
    while True:
        error: ServiceDied | NotReady = await service.wait_death()
        if time.monotonic() - good_s >= restarts.good_after_s:
            attempts = 0
        tell(f"{service.name} {_how(error.exit_code)}: it is started again")
        began = time.monotonic()
        while True:
            if attempts >= restarts.attempts_max:
                raise _given_up(service.name, attempts, error) from error
            attempts += 1
            await asyncio.sleep(restarts.before(attempts))
            try:
                await service.start()
            except (ServiceDied, NotReady) as failed:
                error = failed
                # One that does not answer may still hold its port and its data.
                await service.kill()
            else:
                break
        good_s = time.monotonic()
        restarted()
        tell(f"✓ {service.name} answers again, {good_s - began:.1f} s after its end")


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-exit_code}"


def _given_up(name: str, attempts: int, error: ServiceDied | NotReady) -> ServiceDied:
    message = (
        f"{name} ended and could not be kept running by {attempts} attempts to start it again; "
        f"mend what its log tells, and start anew. {error}"
    )
    return ServiceDied(message, error.exit_code)
