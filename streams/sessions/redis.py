"""The session view in Redis: fast, and thrown away at any moment without loss.

Per session a hash `<namespace>:{<tenant>/<user>}:session:<session>` and per user a sorted set
`<namespace>:{<tenant>/<user>}:sessions` of session ids by the time they were last written. The
braces are Redis Cluster's hash tag: all keys of a user are on one node, so that one script may
change them together. Names are percent-encoded, so that no id can forge a tag or another key.

What stands there may be anything, since anybody may have written it: what cannot be read counts as
absent, and a key of another type is left as it is, for whoever put it there.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote

import redis.asyncio
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError, ResponseError

from millstream.agents.sessions.manager import SessionInfo, SessionPage, StoredCheckpoint
from millstream.schemas.errors import ForeignKey, Misconfigured, ServiceUnavailable
from millstream.schemas.events import AgentResult, CheckpointSaved, ResultStatus
from millstream.streams.sessions.paging import SessionLimits, page_of
from millstream.streams.settings import Settings

AnswerT = TypeVar("AnswerT")

_CONNECTIONS_MAX = 16
_TIMEOUT_S = 2.0

_SCANS_MAX, _SCANNED = 100, 1000

_CLUSTER = (
    "MILLSTREAM_REDIS_URL names a node of a Redis Cluster, which the view of sessions cannot use "
    "yet: name a Redis with `cluster-enabled no`"
)

_HEAD_FIELDS = ("turn", "updated", "request", "created", "status")

# KEYS: the session's hash, the user's index. Evicted hashes share the hash tag, hence the node.
_PUT_CHECKPOINT = """
local hash, index = redis.call('TYPE', KEYS[1]).ok, redis.call('TYPE', KEYS[2]).ok
if hash ~= 'hash' and hash ~= 'none' then return -1 end
if index ~= 'zset' and index ~= 'none' then return -2 end
local kept = redis.call('HGET', KEYS[1], 'offset')
kept = kept and #kept < 20 and string.match(kept, '^%d+$') and tonumber(kept)
if kept and kept >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'offset', ARGV[1], 'checkpoint', ARGV[2], 'turn', ARGV[3],
  'request', ARGV[4], 'updated', ARGV[5])
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'created', ARGV[5]) end
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[6])
redis.call('EXPIRE', KEYS[1], ARGV[7])
redis.call('EXPIRE', KEYS[2], ARGV[7])
local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[8])
if over > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
    redis.call('DEL', ARGV[9] .. name)
  end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, over - 1)
end
return 1
"""

_NOTE_RESULT = """
local hash = redis.call('TYPE', KEYS[1]).ok
if hash ~= 'hash' and hash ~= 'none' then return -1 end
local kept = redis.call('HGET', KEYS[1], 'status_offset')
kept = kept and #kept < 20 and string.match(kept, '^%d+$') and tonumber(kept)
if kept and kept >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'status_offset', ARGV[1], 'status', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""

_log = logging.getLogger(__name__)


class _IsCluster(ResponseError):
    """A node of a Redis Cluster stands where the view's Redis is to be."""


async def _connect(connection: Any) -> None:
    """Begin a connection as ever, unless it leads to a node of a cluster: whenever that came."""
    await connection.on_connect()
    await connection.send_command("INFO", "cluster")
    try:
        told = await connection.read_response()
    except ResponseError:
        return  # it may not be asked; nothing else says what it is
    if "cluster_enabled:1" in str(told):
        raise _IsCluster(_CLUSTER)


class RedisSessionStore:
    """Sessions in Redis; `close` it. Calls wait some seconds at most, then `ServiceUnavailable`.

    Raises `Misconfigured` for a URL that is none. `on_unreadable` hears of each key that was passed
    over, since what it holds cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        limits: SessionLimits | None = None,
        *,
        on_unreadable: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_unreadable = on_unreadable
        self._namespace = settings.namespace
        self._limits = limits or SessionLimits()
        try:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                settings.redis_url,
                max_connections=_CONNECTIONS_MAX,
                timeout=_TIMEOUT_S,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                decode_responses=True,
                # Bytes that are no text are read as what no text of ours is, and so as absent.
                encoding_errors="surrogateescape",
                redis_connect_func=_connect,
            )
        except ValueError:
            # Neither the URL nor the error is shown: both may hold the password.
            message = (
                "MILLSTREAM_REDIS_URL is no Redis URL: write redis://HOST:PORT/DATABASE, or "
                "rediss:// for TLS"
            )
            raise Misconfigured(message) from None
        self._redis = redis.asyncio.Redis.from_pool(pool)
        self._put_checkpoint = self._redis.register_script(_PUT_CHECKPOINT)
        self._note_result = self._redis.register_script(_NOTE_RESULT)

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Return once Redis answers."""
        await self._answer(cast("Awaitable[Any]", self._redis.ping()))

    async def refuse_cluster(self) -> None:
        """Raise `Misconfigured` if it is a node of a Redis Cluster, `ServiceUnavailable` if away.

        A client that knows one node reaches the keys of that one alone. Later on each connection
        asks anew, and every call is `ServiceUnavailable` while a cluster stands at the address.
        """
        try:
            await self._redis.ping()
        except _IsCluster as error:
            raise Misconfigured(_CLUSTER) from error
        except RedisError as error:
            raise _told(error) from error

    async def check_writes(self) -> None:
        """Raise `ServiceUnavailable` if nothing can be written: read-only, or out of memory."""
        key = f"{self._namespace}:check"
        await self._answer(self._redis.set(key, "", ex=1))

    async def foreign_keys(self) -> Sequence[str]:
        """Give keys of the view that hold another type than its own, of some 100,000 keys."""
        pattern = f"{_escaped(self._namespace)}:{{*"
        foreign: list[str] = []
        cursor = 0
        for _ in range(_SCANS_MAX):
            page = await self._answer(self._redis.scan(cursor, pattern, count=_SCANNED))
            cursor, keys = cast("tuple[int, list[str]]", page)
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.type(key)
                kinds = await self._answer(pipeline.execute())
            # A key may be gone by now.
            foreign += [
                key
                for key, kind in zip(keys, kinds, strict=True)
                if kind not in {_kind_of(key), "none"}
            ]
            if cursor == 0:
                break
        return foreign

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        """Keep a checkpoint unless one of the same or a higher offset is kept.

        Raises `ForeignKey` where a key is of another type.
        """
        user = self._user(event.tenant, event.user_id)
        name = _quoted(event.session_id)
        arguments: Sequence[str | int] = [
            offset,
            event.model_dump_json(exclude_none=True),
            event.turn,
            event.request_id,
            event.at_ms,
            name,
            self._limits.ttl_s,
            self._limits.sessions_per_user_max,
            f"{user}:session:",
        ]
        keys = [f"{user}:session:{name}", f"{user}:sessions"]
        return _kept(await self._answer(self._put_checkpoint(keys=keys, args=arguments)), keys)

    async def note_result(self, event: AgentResult, offset: int) -> bool:
        """Keep a result's status unless one of the same or a higher offset is kept."""
        key = self._session(event.tenant, event.user_id, event.session_id)
        arguments: Sequence[str | int] = [offset, event.status, self._limits.ttl_s]
        return _kept(await self._answer(self._note_result(keys=[key], args=arguments)), [key])

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint that is kept; one that cannot be read counts as absent."""
        key = self._session(tenant, user_id, session_id)
        try:
            fields = await self._answer(
                cast(
                    "Awaitable[list[str | None]]", self._redis.hmget(key, ["checkpoint", "offset"])
                )
            )
            if fields[0] is None or fields[1] is None:
                return None
            return StoredCheckpoint(CheckpointSaved.model_validate_json(fields[0]), int(fields[1]))
        except (ForeignKey, ValueError) as error:
            self._pass_over(key, error)
            return None

    async def get(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give a session's head."""
        heads = await self._heads(tenant, user_id, [session_id])
        return heads[0] if heads else None

    async def list(
        self, tenant: str, user_id: str, *, limit: int, after: str | None = None
    ) -> SessionPage:
        """Give up to `limit` of a user's sessions, newest first.

        The whole index is read: it is bounded by `sessions_per_user_max`.
        """
        index = await self._answer(
            cast(
                "Awaitable[list[tuple[str, float]]]",
                self._redis.zrange(
                    f"{self._user(tenant, user_id)}:sessions", 0, -1, withscores=True
                ),
            )
        )
        positions = [(int(at_ms), unquote(name)) for name, at_ms in index if _is_ours(name, at_ms)]
        page, following = page_of(positions, limit=limit, after=after)
        heads = await self._heads(tenant, user_id, [session_id for _, session_id in page])
        return SessionPage(tuple(heads), following)

    async def _heads(
        self, tenant: str, user_id: str, session_ids: Sequence[str]
    ) -> Sequence[SessionInfo]:
        if not session_ids:
            return ()
        async with self._redis.pipeline(transaction=False) as pipeline:
            for session_id in session_ids:
                pipeline.hmget(self._session(tenant, user_id, session_id), _HEAD_FIELDS)
            answers: list[Any] = await self._answer(pipeline.execute(raise_on_error=False))
        heads = []
        for session_id, fields in zip(session_ids, answers, strict=True):
            try:
                if isinstance(fields, RedisError):
                    raise _told(fields) from fields
                head = _head(tenant, user_id, session_id, fields)
            except (ForeignKey, ValueError) as error:
                self._pass_over(self._session(tenant, user_id, session_id), error)
                continue
            if head is not None:
                heads.append(head)
        return heads

    async def _answer(self, call: Awaitable[AnswerT]) -> AnswerT:
        try:
            return await call
        except RedisError as error:
            if _is_replica(error):
                # It keeps its connections, and the name may stand for its successor by now.
                await self._redis.connection_pool.disconnect(inuse_connections=False)
            raise _told(error) from error

    def _pass_over(self, key: str, error: Exception) -> None:
        self._on_unreadable()
        _log.warning("%r holds nothing that can be read, the log has it: %s", key, error)

    def _user(self, tenant: str, user_id: str) -> str:
        return f"{self._namespace}:{{{_quoted(tenant)}/{_quoted(user_id)}}}"

    def _session(self, tenant: str, user_id: str, session_id: str) -> str:
        return f"{self._user(tenant, user_id)}:session:{_quoted(session_id)}"


def _head(
    tenant: str, user_id: str, session_id: str, fields: list[str | None]
) -> SessionInfo | None:
    turn, updated, request, created, status = fields
    for text in (request or "", status or ""):
        text.encode()  # raises for what is no text
    if turn is None or updated is None or request is None:
        return None
    return SessionInfo(
        tenant=tenant,
        user_id=user_id,
        session_id=session_id,
        turn=int(turn),
        updated_at_ms=int(updated),
        last_request_id=request,
        created_at_ms=int(created) if created is not None else None,
        last_status=cast("ResultStatus | None", status),
    )


def _is_replica(error: RedisError) -> bool:
    """Tell whether a server that was a primary answers that it is a replica now."""
    # Some versions wrap what a script met into an error of the script.
    return isinstance(error, ReadOnlyError | MasterDownError) or "-READONLY" in str(error)


def _told(error: RedisError) -> ForeignKey | ServiceUnavailable:
    if "WRONGTYPE" in str(error):
        return ForeignKey(str(error))
    if isinstance(error, _IsCluster):
        return ServiceUnavailable(_CLUSTER)
    return ServiceUnavailable(f"Redis does not answer as it should: {error}")


def _kept(answer: int, keys: Sequence[str]) -> bool:
    if answer < 0:
        key = keys[-answer - 1]
        raise ForeignKey(f"{key!r} is of another type than the view's; delete or rename it")
    return bool(answer)


def _is_ours(name: str, score: float) -> bool:
    """Tell whether an entry of an index is what the view writes."""
    return math.isfinite(score) and name.isascii() and _quoted(unquote(name)) == name


def _kind_of(key: str) -> str:
    return "zset" if key.endswith("}:sessions") else "hash"


def _escaped(text: str) -> str:
    """Write a text as a pattern of Redis that matches it alone."""
    return re.sub(r"([\\*?\[\]^-])", r"\\\1", text)


def _quoted(name: str) -> str:
    return quote(name, safe="")
