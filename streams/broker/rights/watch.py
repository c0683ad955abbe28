"""Names the rights that a worker lacks: as it starts, and when they are taken away later.

Clients say that something was denied, and seldom what. So brokers are asked what this user may do,
as `doctor` asks them: often while the worker is not ready, else now and then. What lacks is told
once, with the commands that grant it, and is among the reasons why the worker is not ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog

from millstream.schemas.errors import Misconfigured, ServiceUnavailable, TopicDrift
from millstream.schemas.topics import catalogue
from millstream.streams.broker.rights.acls import Grant, commands, missing_grants
from millstream.streams.broker.rights.granted import Granted, granted
from millstream.streams.broker.rights.needed import Resource, Role, needs_of
from millstream.streams.broker.topic_admin import ensure_topics, require_sound_topics
from millstream.streams.settings import Settings

__all__ = ["RightsWatch", "require_topics"]

Ask = Callable[[Settings, Collection[Resource]], Awaitable[Granted]]

_PRINCIPAL = "User:NAME"
_LOOK_EVERY_S = 30.0
_AGAIN_AFTER_S = 3.0

log = structlog.get_logger(__name__)


class RightsWatch:
    """What the roles of one worker lack; `ask` gives what brokers allow.

    `reasons` says it in a sentence each, as of the last look; `whole` is set where nothing lacks. A
    lane that began anew without a right would lose the attempts of its runs with it, again and
    again, until they are given up.
    """

    def __init__(
        self,
        settings: Settings,
        roles: Collection[Role],
        *,
        ask: Ask = granted,
        look_every_s: float = _LOOK_EVERY_S,
        again_after_s: float = _AGAIN_AFTER_S,
    ) -> None:
        self.reasons: tuple[str, ...] = ()
        self.whole = asyncio.Event()
        self.whole.set()
        self._settings = settings
        self._roles = tuple(roles)
        self._ask = ask
        self._look_every_s = look_every_s
        self._again_after_s = again_after_s
        self._trouble = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def require(self) -> None:
        """Look, as the worker starts. Raises `Misconfigured` with what lacks and who grants it."""
        if missing := await self._missing():
            told = "; ".join((*map(_told, missing), *self._commands(missing)))
            message = f"this user lacks rights on Kafka: {told}"
            raise Misconfigured(message)

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._run(), name="rights")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def heed(self, *, is_ready: bool) -> None:
        """Take note of whether the worker is ready apart from rights: if not, look at once."""
        if is_ready:
            self._trouble.clear()
        else:
            self._trouble.set()

    async def look(self) -> None:
        """Ask what lacks, and tell of it where that is news."""
        missing = await self._missing()
        if missing is None:
            return
        reasons = tuple(map(_told, missing))
        if reasons == self.reasons:
            return
        self.reasons = reasons
        if reasons:
            self.whole.clear()
            grant = "; ".join(self._commands(missing))
            log.error("this user lacks rights on Kafka", lacks="; ".join(reasons), grant=grant)
        else:
            self.whole.set()
            log.warning("this user has the rights on Kafka that it lacked")

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._look_every_s):
                    await self._trouble.wait()
            except TimeoutError:
                pass
            await self.look()
            await asyncio.sleep(self._again_after_s)

    async def _missing(self) -> tuple[Grant, ...] | None:
        """Give what lacks, `None` where no broker says."""
        needs = needs_of(*self._roles)
        wanted = {
            one for need in needs if not need.is_optional for one in need.resources(self._settings)
        }
        try:
            allowed = await self._ask(self._settings, wanted)
        except ServiceUnavailable:
            return None  # others tell of it
        return missing_grants(self._settings, allowed, self._roles, _PRINCIPAL)

    def _commands(self, missing: tuple[Grant, ...]) -> tuple[str, ...]:
        return tuple(f"`{one}`" for one in commands(self._settings, missing))


async def require_topics(settings: Settings, rights: RightsWatch) -> None:
    """Create the topics that are missing, and tell how others differ from the catalogue.

    Raises `Misconfigured` for rights that lack, `TopicDrift` for topics that no worker can use, and
    `ServiceUnavailable`.
    """
    specs = catalogue(settings.chain_cuts)
    try:
        await ensure_topics(settings, specs)
        drifts = await require_sound_topics(settings, specs)
    except TopicDrift:
        # A topic that is hidden from this user looks like one that there is not.
        await rights.require()
        raise
    for drift in drifts:
        log.warning("topic drift", what=str(drift))
    await rights.require()


def _told(missing: Grant) -> str:
    operations = " and no ".join(missing.operations)
    return f"no {operations} on {missing.resource.kind.replace('-', ' ')} {missing.resource}"
