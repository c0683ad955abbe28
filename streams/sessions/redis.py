"""The session view in Redis: fast, and thrown away at any moment without loss.

What stands there may be anything, since anybody may have written it: what cannot be read counts as
absent, and a key of another type is left as it is, for whoever put it there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote

from pydantic import ValidationError
from redis.exceptions import MovedError, RedisError

from millstream.agents.sessions.manager import (
    ANY_SESSION,
    SessionCheckpoint,
    SessionFilter,
    SessionInfo,
    SessionOrder,
    SessionPage,
    SessionStats,
    StoredCheckpoint,
)
from millstream.schemas.errors import ForeignKey
from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.ports import ClockMs
from millstream.schemas.sessions.states import SessionState
from millstream.streams.sessions.facts import (
    Facts,
    KeptCheckpoint,
    checkpoints_of,
    stats_of,
)
from millstream.streams.sessions.in_redis.connecting import Client, RedisConnections, told
from millstream.streams.sessions.in_redis.keys import SessionKeys, UserKeys, kind_of, pattern_of
from millstream.streams.sessions.in_redis.marks import ViewMarks, told_of
from millstream.streams.sessions.in_redis.rows import FIELDS, ask_fields, ask_type, facts_of
from millstream.streams.sessions.in_redis.scanning import scanned
from millstream.streams.sessions.in_redis.scripts import (
    NOTE_RESULT,
    PRUNE,
    PUT_CHECKPOINT,
    PUT_HEAD,
    PUT_STATE,
    Script,
)
from millstream.streams.sessions.paging import (
    Cursors,
    SessionLimits,
    bounds,
    name_of,
    quoted,
    session_at,
)
from millstream.streams.settings import Settings

__all__ = ["RedisSessionStore"]

AnswerT = TypeVar("AnswerT")

_SCANS_MAX: Final = 100
_ROWS: Final = 500
_ROWS_OF_A_PAGE_MAX: Final = 20_000

_log = logging.getLogger(__name__)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class RedisSessionStore:
    """Sessions in Redis; `close` it. Calls wait some seconds at most, then `ServiceUnavailable`.

    Raises `Misconfigured` for a URL that is none. `on_unreadable` hears of each key that was passed
    over, since what it holds cannot be read. `prefix` is what its keys begin with, the namespace
    where none is given.
    """

    def __init__(
        self,
        settings: Settings,
        limits: SessionLimits | None = None,
        *,
        on_unreadable: Callable[[], object] = lambda: None,
        clock_ms: ClockMs = _now_ms,
        prefix: str | None = None,
    ) -> None:
        self._on_unreadable = on_unreadable
        self.prefix = settings.namespace if prefix is None else prefix
        self._limits = limits or SessionLimits.of(settings.retention)
        self._clock_ms = clock_ms
        self.connections = RedisConnections(settings)

    def beside(self, name: str) -> RedisSessionStore:
        """Give a view of its own, over the same connections."""
        other = copy(self)
        other.prefix = f"{self.prefix}:{name}"
        return other

    async def close(self) -> None:
        """Close every connection."""
        await self.connections.close()

    @property
    def marks(self) -> ViewMarks:
        """What the view says of itself."""
        return ViewMarks(self.connections, self.prefix, ttl_s=self._limits.ttl_s)

    async def lacks(self) -> str | None:
        """Say why sessions may lack, or not be as they are; `None`: the view has all."""
        return told_of(await self.marks.read())

    async def ping(self) -> None:
        """Return once Redis answers. Raises `ServiceUnavailable`, which says what it can of why."""
        await self.connections.ping()

    async def check_writes(self) -> None:
        """Raise `ServiceUnavailable` if nothing can be written: read-only, or out of memory."""
        key = f"{self.prefix}:check"
        await self.connections.ask(lambda client: client.set(key, "", ex=1))

    async def foreign_keys(self) -> Sequence[str]:
        """Give keys of the view that hold another type than its own, of some 100,000 keys."""
        foreign: list[str] = []
        scans = 0
        async for keys in self.scan():
            # A key may be gone by now.
            kinds = await self._piped([partial(ask_type, key=key) for key in keys])
            foreign += [
                key
                for key, kind in zip(keys, kinds, strict=True)
                if kind not in {kind_of(key), "none"} and kind_of(key) is not None
            ]
            if (scans := scans + 1) >= _SCANS_MAX:
                break
        return foreign

    def scan(self, rest: str = "*") -> AsyncIterator[list[str]]:
        """Give the view's keys, some at a time, of all nodes of a cluster."""
        return scanned(self.connections, pattern_of(self.prefix, rest))

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        """Keep a checkpoint unless one of the same or a higher offset is kept.

        Raises `ForeignKey` where a key is of another type.
        """
        return await self._put(
            PUT_CHECKPOINT,
            event,
            offset,
            event.model_dump_json(exclude_none=True),
            event.turn,
            event.request_id,
            event.at_ms,
            KeptCheckpoint.of(event, offset).model_dump_json(exclude_none=True),
            min(self._limits.checkpoint_ttl_s, self._limits.ttl_s),
            self._limits.checkpoints_per_user_max,
            self._limits.checkpoints_per_session_max,
        )

    async def note_result(self, event: AgentResult, offset: int) -> bool:
        """Keep a result's status and request unless one of the same or a higher offset is kept."""
        return await self._put(NOTE_RESULT, event, offset, event.status, event.request_id)

    async def put_head(self, event: SessionUpdated, offset: int) -> bool:
        """Keep a session's head unless one of the same or a higher offset is kept."""
        text = event.model_dump_json(exclude_none=True)
        return await self._put(PUT_HEAD, event, offset, text, event.created_at_ms, event.at_ms)

    async def put_state(self, event: SessionState) -> bool:
        """Keep what a session is, unless the same or a higher revision is kept."""
        text = event.model_dump_json(exclude_none=True)
        return await self._put(
            PUT_STATE, event, event.revision, text, event.created_at_ms, event.state, event.at_ms
        )

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint that is kept; one that cannot be read counts as absent."""
        key = UserKeys.of(self.prefix, tenant, user_id).session(session_id).checkpoint
        try:
            text, offset = await self.connections.ask(
                lambda client: cast(
                    "Awaitable[list[str | None]]", client.hmget(key, ["checkpoint", "offset"])
                )
            )
            if text is None or offset is None:
                return None
            return StoredCheckpoint(CheckpointSaved.model_validate_json(text), int(offset))
        except (ForeignKey, ValueError) as error:
            self._pass_over(key, error)
            return None

    async def get(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give a session; `None` also for one that was deleted."""
        keys = UserKeys.of(self.prefix, tenant, user_id).session(session_id)
        key = keys.facts
        fields = await self._quietly(
            key, lambda client: cast("Awaitable[list[str | None]]", client.hmget(key, FIELDS))
        )
        facts = None if fields is None else self._facts(key, fields)
        return None if facts is None else facts.info(tenant, user_id, session_id)

    async def list(
        self,
        tenant: str,
        user_id: str,
        *,
        limit: int,
        after: str | None = None,
        order: SessionOrder = "newest",
        wanted: SessionFilter = ANY_SESSION,
    ) -> SessionPage:
        """Give up to `limit` of a user's sessions, of the first 20,000 behind `after`."""
        cursors = Cursors(tenant, user_id, order, wanted)
        bound = cursors.place(after)
        shown: list[SessionInfo] = []
        last, looked_at = bound, 0
        rows = limit + 1 if wanted == ANY_SESSION else _ROWS
        while True:
            places = await self._places(
                tenant, user_id, last, order=order, wanted=wanted, rows=rows
            )
            for place, info in await self._infos(tenant, user_id, places):
                if wanted.passes(info):
                    if len(shown) == limit:
                        return SessionPage(tuple(shown), cursors.at(bound or place))
                    shown.append(info)
                    bound = place
            looked_at += len(places)
            if len(places) < rows:
                return SessionPage(tuple(shown), None)
            last = places[-1]
            if looked_at >= _ROWS_OF_A_PAGE_MAX and name_of(last) is not None:
                return SessionPage(tuple(shown), cursors.at(last))

    async def checkpoints(
        self, tenant: str, user_id: str, session_id: str
    ) -> tuple[SessionCheckpoint, ...]:
        """Give a session's checkpoints that the log still has, the newest first."""
        keys = UserKeys.of(self.prefix, tenant, user_id).session(session_id)
        fields, entries = await self._piped(
            [
                partial(ask_fields, key=keys.facts),
                lambda piped: piped.zrange(keys.checkpoints, 0, -1),
            ]
        )
        facts = self._facts(keys.facts, fields) or Facts()
        kept = []
        if isinstance(entries, RedisError):
            self._pass_over(keys.checkpoints, entries)
            entries = ()
        for entry in entries:
            try:
                kept.append(KeptCheckpoint.model_validate_json(entry))
            except ValidationError as error:
                self._pass_over(keys.checkpoints, error)
        return checkpoints_of(kept, facts, since_ms=self._limits.since_ms(self._clock_ms()))

    async def stats(self, tenant: str, user_id: str) -> SessionStats:
        """Add up a user's sessions: all of them are read."""
        return await self._stats(tenant, user_id, SessionStats())

    async def stats_of_all(self) -> SessionStats:
        """Add up everybody's sessions: all of them are read."""
        sums = SessionStats()
        seen: set[str] = set()  # a scan may give a key twice
        async for keys in self.scan("*}:places"):
            for key in set(keys) - seen:
                tenant, slash, user_id = key[len(self.prefix) + 2 : -len("}:places")].partition("/")
                if slash and kind_of(key) is not None:
                    sums = await self._stats(unquote(tenant), unquote(user_id), sums)
            seen.update(keys)
        return sums

    async def _stats(self, tenant: str, user_id: str, sums: SessionStats) -> SessionStats:
        last = None
        while True:
            places = await self._places(tenant, user_id, last)
            infos = await self._infos(tenant, user_id, places)
            sums = stats_of((info for _, info in infos), sums)
            if len(places) < _ROWS:
                return sums
            last = places[-1]

    async def _put(
        self,
        script: Script,
        event: CheckpointSaved | AgentResult | SessionUpdated | SessionState,
        *more: str | int,
    ) -> bool:
        user = UserKeys.of(self.prefix, event.tenant, event.user_id)
        keys = user.session(event.session_id)
        limits = (self._limits.ttl_s, self._limits.sessions_per_user_max)
        args = (quoted(event.session_id), user.base, *limits, *more)
        answer = await self.connections.run(script, keys, args)
        if answer < 0:
            key = keys[-answer - 1]
            raise ForeignKey(f"{key!r} is of another type than the view's; delete or rename it")
        return bool(answer)

    async def _places(
        self,
        tenant: str,
        user_id: str,
        last: str | None,
        *,
        order: SessionOrder = "oldest",
        wanted: SessionFilter = ANY_SESSION,
        rows: int = _ROWS,
    ) -> Sequence[str]:
        """Give the places behind `last`, as many as `rows` at most."""
        key = UserKeys.of(self.prefix, tenant, user_id).places
        first, behind = bounds(wanted)
        low, high = f"[{first}" if first else "-", f"({behind}" if behind else "+"

        def call(client: Client) -> Awaitable[Sequence[str]]:
            if order == "newest":
                given = client.zrevrangebylex(key, f"({last}" if last else high, low, 0, rows)
            else:
                given = client.zrangebylex(key, f"({last}" if last else low, high, 0, rows)
            return cast("Awaitable[Sequence[str]]", given)

        return await self._quietly(key, call) or []

    async def _infos(
        self, tenant: str, user_id: str, places: Sequence[str]
    ) -> Sequence[tuple[str, SessionInfo]]:
        """Give the sessions at these places, and have those forgotten that are gone."""
        user = UserKeys.of(self.prefix, tenant, user_id)
        at: list[tuple[str, str, SessionKeys]] = []
        for place in places:
            session_id = session_at(place)
            if session_id is not None:
                at.append((place, session_id, user.session(session_id)))
        if not at:
            return []
        rows = await self._piped([partial(ask_fields, key=keys.facts) for _, _, keys in at])
        infos = []
        gone: list[str] = []
        for (place, session_id, keys), fields in zip(at, rows, strict=True):
            if not isinstance(fields, RedisError) and not any(fields):
                gone += [quoted(session_id), place]
                continue
            facts = self._facts(keys.facts, fields)
            info = None if facts is None else facts.info(tenant, user_id, session_id)
            if info is not None:
                infos.append((place, info))
        if gone:
            await self.connections.run(PRUNE, [user.written, user.places], [user.base, *gone])
        return infos

    def _facts(self, key: str, fields: Any) -> Facts | None:
        try:
            if isinstance(fields, RedisError):
                raise told(fields) from fields
            return facts_of(fields)
        except (ForeignKey, ValueError) as error:
            self._pass_over(key, error)
            return None

    async def _piped(self, calls: Sequence[Callable[[Any], object]]) -> Sequence[Any]:
        """Make several calls at once; what one of them fails with stands in its place."""

        async def call(client: Client) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                for one in calls:
                    one(pipeline)
                answers = await pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, MovedError):
                    raise answer
            return answers

        return await self.connections.ask(call)

    async def _quietly(
        self, key: str, call: Callable[[Client], Awaitable[Sequence[AnswerT]]]
    ) -> Sequence[AnswerT] | None:
        """Make a call; a key of another type counts as absent."""
        try:
            return await self.connections.ask(call)
        except ForeignKey as error:
            self._pass_over(key, error)
            return None

    def _pass_over(self, key: str, error: Exception) -> None:
        self._on_unreadable()
        _log.warning("%r holds nothing that can be read, the log has it: %s", key, error)
