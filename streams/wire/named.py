"""Whom a record that cannot be read names: by its key, and by what can be read of its value.

Nobody vouches for it: the record may be anybody's. It is for finding the record again.
"""

from __future__ import annotations

import base64
import unicodedata
from dataclasses import dataclass
from typing import Any

import orjson

from millstream.schemas.base import DEFAULT_TENANT, Address, partition_key
from millstream.schemas.dead_letters import DeadLetter

__all__ = ["Named", "named_by", "named_by_letter"]

_VALUE_BYTES_MAX = 1_500_000


@dataclass(frozen=True, slots=True)
class Named:
    """What a record says of whose it is; `None` for what it does not say.

    `key` is the record's, as text. A record that names a session or request is of no other.
    """

    key: str | None = None
    tenant: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    request_ids: tuple[str, ...] = ()

    def is_of_user(self, tenant: str, user_id: str) -> bool:
        """Tell whether its key or its value names this user."""
        if self.user_id == user_id and (self.tenant or DEFAULT_TENANT) == tenant:
            return True
        return self.key == partition_key(tenant, user_id)


def named_by(key: bytes | None, value: bytes | None, address: Address) -> Named:
    """Give what a record names; one without a request's id is known by its address, as requests."""
    told = _object(value)
    inner = told.get("request")
    if isinstance(inner, dict):  # a request between two stages
        told = inner
    user, request = _name(told, "user_id"), _name(told, "request_id")
    session = _name(told, "session_id")
    return Named(
        key=None if key is None else key.decode(errors="replace"),
        tenant=_name(told, "tenant") or (None if user is None else DEFAULT_TENANT),
        user_id=user,
        session_id=session or request,
        request_ids=(str(address),) if request is None else (request,),
    )


def named_by_letter(letter: DeadLetter) -> Named:
    """Give what a dead letter's record names."""
    return named_by(_bytes(letter.key), _bytes(letter.value), letter.source)


def _object(value: bytes | None) -> dict[str, Any]:
    if not value or len(value) > _VALUE_BYTES_MAX:
        return {}
    try:
        told = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _name(told: dict[str, Any], field: str) -> str | None:
    given = told.get(field)
    return unicodedata.normalize("NFC", given) if isinstance(given, str) else None


def _bytes(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text)
    except ValueError:
        return None  # whoever wrote this letter, it was no lane
