"""The session view in Redis: fast, and thrown away at any moment without loss.

Per session a hash `<namespace>:{<tenant>/<user>}:session:<session>` and per user a sorted set
`<namespace>:{<tenant>/<user>}:sessions` of session ids by the time they were last written. The
braces are Redis Cluster's hash tag: all keys of a user are on one node, so that one script may
change them together. Names are percent-encoded, so that no id can forge a tag or another key.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote

import redis.asyncio
from pydantic import ValidationError
from redis.exceptions import RedisError

from millstream.agents.sessions.manager import SessionInfo, SessionPage, StoredCheckpoint
from millstream.schemas.errors import Misconfigured, ServiceUnavailable
from millstream.schemas.events import AgentResult, CheckpointSaved, ResultStatus
from millstream.streams.sessions.paging import SessionLimits, page_of
from millstream.streams.settings import Settings

AnswerT = TypeVar("AnswerT")

_CONNECTIONS_MAX = 16
_TIMEOUT_S = 2.0

_HEAD_FIELDS = ("turn", "updated", "request", "created", "status")

# KEYS: the session's hash, the user's index. Evicted hashes share the hash tag, hence the node.
_PUT_CHECKPOINT = """
local kept = redis.call('HGET', KEYS[1], 'offset')
if kept and tonumber(kept) >= tonumber(ARGV[1]) then return 0 end
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
local kept = redis.call('HGET', KEYS[1], 'status_offset')
if kept and tonumber(kept) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'status_offset', ARGV[1], 'status', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""

_log = logging.getLogger(__name__)


class RedisSessionStore:
    """Sessions in Redis; `close` it. Calls wait some seconds at most, then `ServiceUnavailable`.

    Raises `Misconfigured` for a URL that is none.
    """

    def __init__(self, settings: Settings, limits: SessionLimits | None = None) -> None:
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
        await _answer(cast("Awaitable[Any]", self._redis.ping()))

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        """Keep a checkpoint unless one of the same or a higher offset is kept."""
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
        return bool(await _answer(self._put_checkpoint(keys=keys, args=arguments)))

    async def note_result(self, event: AgentResult, offset: int) -> bool:
        """Keep a result's status unless one of the same or a higher offset is kept."""
        key = self._session(event.tenant, event.user_id, event.session_id)
        arguments: Sequence[str | int] = [offset, event.status, self._limits.ttl_s]
        return bool(await _answer(self._note_result(keys=[key], args=arguments)))

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint that is kept; one that cannot be read counts as absent."""
        key = self._session(tenant, user_id, session_id)
        fields = await _answer(
            cast("Awaitable[list[str | None]]", self._redis.hmget(key, ["checkpoint", "offset"]))
        )
        if fields[0] is None or fields[1] is None:
            return None
        try:
            return StoredCheckpoint(CheckpointSaved.model_validate_json(fields[0]), int(fields[1]))
        except (ValidationError, ValueError) as error:
            _log.warning("%s holds no checkpoint that can be read, the log has it: %s", key, error)
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
        index = await _answer(
            cast(
                "Awaitable[list[tuple[str, float]]]",
                self._redis.zrange(
                    f"{self._user(tenant, user_id)}:sessions", 0, -1, withscores=True
                ),
            )
        )
        positions = [(int(at_ms), unquote(name)) for name, at_ms in index]
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
            answers = await _answer(pipeline.execute())
        heads = (
            _head(tenant, user_id, session_id, fields)
            for session_id, fields in zip(session_ids, answers, strict=True)
        )
        return [head for head in heads if head is not None]

    def _user(self, tenant: str, user_id: str) -> str:
        return f"{self._namespace}:{{{_quoted(tenant)}/{_quoted(user_id)}}}"

    def _session(self, tenant: str, user_id: str, session_id: str) -> str:
        return f"{self._user(tenant, user_id)}:session:{_quoted(session_id)}"


def _head(
    tenant: str, user_id: str, session_id: str, fields: list[str | None]
) -> SessionInfo | None:
    turn, updated, request, created, status = fields
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


async def _answer(call: Awaitable[AnswerT]) -> AnswerT:
    try:
        return await call
    except RedisError as error:
        message = f"Redis does not answer as it should: {error}"
        raise ServiceUnavailable(message) from error


def _quoted(name: str) -> str:
    return quote(name, safe="")
