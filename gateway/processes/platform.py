"""The whole platform on this machine: Kafka and Redis from the launcher, and a worker on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from millstream.gateway.client_settings import (
    Endpoints,
    as_user,
    leave_note_of_up,
    make_data_folder,
    noted_start,
)
from millstream.gateway.processes.app_check import AppReport, checked_app
from millstream.gateway.processes.children import Child, ChildEnded, module_command
from millstream.gateway.processes.workers import KeptWorker
from millstream.streams.broker.rights.acls import grants
from millstream.streams.broker.rights.granting import grant
from millstream.streams.broker.rights.users import USERS, User
from millstream.streams.settings import Role, Settings, child_environment

__all__ = ["Platform", "platform"]

T = TypeVar("T")

# The first start may download Kafka's jars.
_READY_TIMEOUT_S = 600.0
_STOP_GRACE_S = 40.0
# As long as it takes until a template that was just applied is there.
_UNKNOWN_TEMPLATE_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Platform:
    """What runs; `settings` are those of its clients, `report` says what is in its app.

    Where `has_worker` is false, `worker` is not started. `secure` is the folder of the users' files
    where the launcher's services are secure: each user has the rights of its roles.
    """

    settings: Settings
    services: Child
    worker: KeptWorker
    report: AppReport
    has_worker: bool = True
    secure: Path | None = None

    def settings_of(self, user: User) -> Settings:
        """Give the settings of a program that does what a user does."""
        return self.settings if self.secure is None else as_user(self.settings, self.secure, user)

    async def while_services_run(self, doing: Awaitable[T]) -> T:
        """Do something; raises `ChildEnded` at once if the services end by themselves."""
        return await _first(doing, self._services_died())

    async def while_all_runs(self, doing: Awaitable[T]) -> T:
        """As `while_services_run`, and also if the worker ends."""
        return await _first(doing, self._services_died(), self._worker_died())

    async def _services_died(self) -> ChildEnded:
        await self.services.wait()
        return self.services.ended()

    async def _worker_died(self) -> ChildEnded:
        return await self.worker.died()


@asynccontextmanager
async def platform(
    settings: Settings,
    *,
    roles: frozenset[Role],
    tell: Callable[[str], None],
    brokers: int | None = None,
    with_worker: bool = True,
    to_terminal: bool = False,
    secure: bool | None = None,
) -> AsyncIterator[Platform]:
    """Start the services and a worker that serves; stop the worker, then the services.

    Services that the environment names are used and not started. What was started does not
    outlive us, even if we are killed. `secure` services have TLS, users and rights; without a word,
    they are as the data has them. `to_terminal`: the worker writes where we do, instead of to
    its log. Raises `ChildEnded`, and `Misconfigured` for an app or a policy with mistakes, a chain
    that cannot be cut so, or a data folder that cannot be written to, before anything is started.
    """
    report = await checked_app(settings)
    settings = settings.model_copy(update={"policy_file": report.policy_file})
    make_data_folder(settings)
    options = () if brokers is None else ("--brokers", str(brokers))
    if secure is not None:
        options = (*options, "--secure" if secure else "--no-secure")
    with noted_start(settings) as started:
        services = await Child.start(
            "launcher of Kafka and Redis",
            module_command(
                "millstream.infra",
                "up",
                "--until-eof",
                "--json",
                "--data",
                str(settings.data_dir),
                *options,
            ),
            # A file of properties may name the brokers, which the launcher does not read.
            environment=child_environment(settings),
            # Not by the guard: killed, it could not stop Kafka properly. Our end ends its input.
            guarded=False,
        )
        try:
            endpoints = Endpoints.from_json(await services.ready_line(_READY_TIMEOUT_S))
            if with_worker:  # else each of the workers that people start has its own policy
                leave_note_of_up(settings, endpoints.launcher_pid)
            found: dict[str, object] = {"kafka": endpoints.kafka, "redis_url": endpoints.redis_url}
            if "template_unknown_wait_s" not in settings.model_fields_set:
                # There is no other worker that could have it: who misspells a name is told soon.
                found["template_unknown_wait_s"] = _UNKNOWN_TEMPLATE_WAIT_S
            connected = own = settings.model_copy(update=found)
            if endpoints.secure is not None:
                await _grant(connected, endpoints.secure)
                own = as_user(connected, endpoints.secure, "worker")
            worker = KeptWorker(own, roles, tell, to_terminal=to_terminal)
            try:
                if with_worker:
                    tell("starting a worker …")
                    await worker.start()
                started()
                yield Platform(connected, services, worker, report, with_worker, endpoints.secure)
            finally:
                await worker.stop()
        finally:
            await services.stop(_STOP_GRACE_S)


async def _grant(settings: Settings, secure: Path) -> None:
    """Give each user of secure services the rights of its roles in this namespace."""
    found = [
        one
        for user, roles in USERS.items()
        for one in grants(settings, roles, f"User:{user}", optional=True)
    ]
    await grant(as_user(settings, secure, "admin"), found)


async def _first(doing: Awaitable[T], *deaths: Awaitable[ChildEnded]) -> T:
    wanted = asyncio.ensure_future(doing)
    watching = [asyncio.ensure_future(death) for death in deaths]
    try:
        await asyncio.wait({wanted, *watching}, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise next(one.result() for one in watching if one.done())
    finally:
        for task in (wanted, *watching):
            task.cancel()
        await asyncio.gather(wanted, *watching, return_exceptions=True)
