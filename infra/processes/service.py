"""A service that is one guarded child process, which may be ended and started again."""

import signal

from millstream.infra.errors import ServiceDied
from millstream.infra.processes.process import ChildProcess, Command

__all__ = ["ChildService"]


class ChildService:
    """What a node of Kafka and Redis have in common; whoever derives from it starts the child.

    `stop` waits `stop_grace_s` between SIGTERM and SIGKILL where it is told nothing else.
    """

    stop_grace_s = 10.0

    def __init__(self, name: str) -> None:
        """Nothing is started yet; `name` is for a person."""
        self.name = name
        self._child: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None while it is not running."""
        return self._child.pid if self._child is not None and self._child.running else None

    async def stop(self, grace_s: float | None = None) -> None:
        """SIGTERM, then SIGKILL after a grace; one that is not running is left alone."""
        if self._child is not None:
            await self._child.stop(self.stop_grace_s if grace_s is None else grace_s)

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._child is not None:
            await self._child.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, for instance SIGSTOP and SIGCONT."""
        self._running().signal(number)

    async def wait_death(self) -> ServiceDied:
        """Wait until it ends; gives the error that tells of it, with the end of its log."""
        child = self._running()
        await child.wait()
        return child.died()

    async def _start(self, command: Command) -> ChildProcess:
        self._child = await ChildProcess.start(command)
        return self._child

    def _running(self) -> ChildProcess:
        if self._child is None:
            message = f"{self.name} was never started"
            raise ServiceDied(message)
        return self._child
