"""What callers give a `SessionManager`, checked before anything is sent, in words that help."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from hashlib import blake2b
from typing import Any, Final, get_args

from pydantic import TypeAdapter, ValidationError

from millstream.agents.sessions.manager import PAGE_SESSIONS_MAX, SessionFilter, SessionOrder
from millstream.schemas.base import Identifier, TenantName, words_of_problem
from millstream.schemas.sessions.commands import (
    METADATA_KEY_CHARS_MAX,
    TTL_IDLE_S_MAX,
    TTL_S_MAX,
    SessionCommand,
    SessionOperation,
    SessionTtl,
)
from millstream.schemas.sessions.errors import SessionInputInvalid
from millstream.schemas.sessions.states import LifecycleState

__all__ = [
    "Ttl",
    "check_list",
    "checked_id",
    "checked_tenant",
    "command_of",
    "id_of_created",
    "new_ulid",
]

Ttl = SessionTtl | timedelta | int
"""A time to live: a number is seconds of idleness."""

_DAY_S: Final = 86_400
_ULID_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_CHARS: Final = 26
_ULID_BYTES: Final = 16
_RANDOM_BITS: Final = 80

_ID_HINT: Final = "give 1 to 256 characters, no line break or other control character among them"
_HINTS: Final[Mapping[str, str]] = {
    "ttl": (
        f"give whole seconds: idle_s of 1 to {TTL_IDLE_S_MAX:,} ({TTL_IDLE_S_MAX // _DAY_S} days), "
        f"total_s of 1 to {TTL_S_MAX:,} ({TTL_S_MAX // _DAY_S} days), or leave it out"
    ),
    "metadata": (
        "give a dict of at most 32 strings of up to 1,024 characters by names of 1 to "
        f"{METADATA_KEY_CHARS_MAX}; keep what is larger elsewhere, and its address here"
    ),
    "tenant": "give 1 to 64 letters, digits, dots, underscores and hyphens",
    "why": "give up to 500 characters",
    "turn": "give the number of a turn, from 1 on",
    "drain": "give True or False",
}

_OF_ALL: Final = frozenset({"tenant", "by", "why"})
_TAKES: Final[Mapping[SessionOperation, frozenset[str]]] = {
    "create": frozenset({"ttl", "metadata"}),
    "update": frozenset({"ttl", "metadata"}),
    "close": frozenset({"drain"}),
    "name_checkpoint": frozenset({"turn", "name", "checkpoint_offset"}),
    "restore": frozenset({"turn", "name", "checkpoint_offset"}),
}
"""What an operation takes beside what all take."""


def command_of(
    operation: SessionOperation,
    user_id: str,
    session_id: str | None,
    *,
    command_id: str | None = None,
    **fields: Any,
) -> SessionCommand:
    """Make a command; one without an id gets one.

    Raises `SessionInputInvalid`, and `TypeError` for an argument that the operation does not take:
    an event passes over what it does not know, and would lack what was misspelt.
    """
    _check_names(operation, fields)
    if command_id is None:
        command_id = new_ulid()
    ttl, metadata = fields.pop("ttl", None), fields.pop("metadata", None)
    try:
        return SessionCommand(
            operation=operation,
            user_id=user_id,
            session_id=session_id,
            command_id=command_id,
            ttl=None if ttl is None else _ttl_of(ttl),
            metadata=None if metadata is None else _metadata_of(metadata),
            at_ms=time.time_ns() // 10**6,
            **fields,
        )
    except ValidationError as error:
        raise _refused(error) from error


def _check_names(operation: SessionOperation, given: Mapping[str, Any]) -> None:
    takes = _TAKES.get(operation, frozenset()) | _OF_ALL
    for name in given:
        if name not in takes:
            message = f"{operation} takes no argument {name!r}"
            if name == "timeout_s":
                message += "; it is the manager's: SessionManager(bus, store, timeout_s=…)"
            raise TypeError(message)


def checked_id(name: str, value: str) -> str:
    """Give a name as it stands on the wire. Raises `SessionInputInvalid`."""
    return _checked(_identifier(), name, value)


def checked_tenant(value: str) -> str:
    """Give a tenant as it stands on the wire. Raises `SessionInputInvalid`."""
    return _checked(_tenant(), "tenant", value)


def check_list(limit: Any, after: Any, order: Any, wanted: Any) -> None:
    """Check what a page of sessions is asked for by. Raises `SessionInputInvalid`.

    A filter that no session can pass would else be answered with no sessions, as if there were
    none.
    """
    if not _is_whole(limit) or not 1 <= limit <= PAGE_SESSIONS_MAX:
        raise SessionInputInvalid(f"limit is {_shown(limit)}; give 1 to {PAGE_SESSIONS_MAX}")
    if after is not None and not isinstance(after, str):
        message = f"after is {_shown(after)}; give the `after` of the page before, or leave it out"
        raise SessionInputInvalid(message)
    if order not in get_args(SessionOrder):
        raise SessionInputInvalid(f"order is {_shown(order)}; give 'newest' or 'oldest'")
    if not isinstance(wanted, SessionFilter):
        raise SessionInputInvalid(f"wanted is {_shown(wanted)}; give a SessionFilter")
    _check_filter(wanted)


def _check_filter(wanted: SessionFilter) -> None:
    state: Any = wanted.state
    if state == "deleted":
        message = (
            "wanted.state is 'deleted', and deleted sessions are not listed; that they were "
            "deleted stands on the topic session-events"
        )
        raise SessionInputInvalid(message)
    if state is not None and state not in get_args(LifecycleState):
        raise SessionInputInvalid(
            f"wanted.state is {_shown(state)}; give 'open', 'closed' or 'expired'"
        )
    template: Any = wanted.template
    if template is not None and (not isinstance(template, str) or not template):
        message = f"wanted.template is {_shown(template)}; give an agent's name, or leave it out"
        raise SessionInputInvalid(message)
    metadata: Any = wanted.metadata
    if not isinstance(metadata, Mapping) or not all(
        isinstance(part, str) for pair in metadata.items() for part in pair
    ):
        message = f"wanted.metadata is {_shown(metadata)}; give a dict of strings by strings"
        raise SessionInputInvalid(message)
    for name in ("created_from_ms", "created_before_ms", "used_from_ms", "used_before_ms"):
        at_ms: Any = getattr(wanted, name)
        if at_ms is not None and not _is_whole(at_ms):
            message = f"wanted.{name} is {_shown(at_ms)}; give whole milliseconds since the epoch"
            raise SessionInputInvalid(message)


def new_ulid() -> str:
    """Make a ULID: 26 characters that sort by the millisecond in which they were made."""
    return _ulid((time.time_ns() // 10**6) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS))


def id_of_created(command_id: str | None) -> str:
    """Give the id of a session that is created without one: that of a command is always the same.

    Else a command that is sent again would ask for another session.
    """
    if command_id is None:
        return new_ulid()
    digest = blake2b(command_id.encode(errors="surrogatepass"), digest_size=_ULID_BYTES).digest()
    return _ulid(int.from_bytes(digest))


def _ulid(number: int) -> str:
    text = ""
    for _ in range(_ULID_CHARS):
        number, digit = divmod(number, len(_ULID_BASE32))
        text = _ULID_BASE32[digit] + text
    return text


@cache
def _identifier() -> TypeAdapter[str]:
    return TypeAdapter(Identifier)


@cache
def _tenant() -> TypeAdapter[str]:
    return TypeAdapter(TenantName)


def _checked(kind: TypeAdapter[str], name: str, value: str) -> str:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise _refused(error, name) from error


def _ttl_of(ttl: Ttl) -> SessionTtl:
    if isinstance(ttl, SessionTtl):
        return ttl
    seconds: Any = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    # A dict would let a misspelt name pass for no limit; and True is no second.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        kind = type(seconds).__name__
        raise SessionInputInvalid(
            f"ttl: a SessionTtl, timedelta or int, not {kind}: {_hint('ttl')}"
        )
    try:
        return SessionTtl.model_validate({"idle_s": seconds})
    except ValidationError as error:
        raise _refused(error, "ttl") from error


def _metadata_of(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, Mapping):
        message = f"metadata: not a dict but {type(metadata).__name__}: {_hint('metadata')}"
        raise SessionInputInvalid(message)
    for key in metadata:
        if isinstance(key, str) and (not 0 < len(key) <= METADATA_KEY_CHARS_MAX or _is_half(key)):
            shown = ascii(key[:20])
            raise SessionInputInvalid(f"metadata: the name {shown} cannot be: {_hint('metadata')}")
    return dict(metadata)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return ascii(value)[:60]


def _is_half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _refused(error: ValidationError, named: str | None = None) -> SessionInputInvalid:
    """Say which field, what is wrong with it, and what to give; not what was given: it is long."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in problem["loc"]]
    if named is not None:
        where.insert(0, named)
    told = words_of_problem(problem)
    if not where:
        return SessionInputInvalid(told)
    shown = ".".join(part[:20] for part in where)
    hint = _hint(where[0])
    return SessionInputInvalid(f"{ascii(shown)[1:-1]}: {told[:1].lower()}{told[1:]}: {hint}")


def _hint(field: str) -> str:
    return _HINTS.get(field, _ID_HINT)
