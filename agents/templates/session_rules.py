"""What a template asks of the sessions that its requests are for."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from millstream.schemas.base import Frozen
from millstream.schemas.sessions.commands import SessionTtl

__all__ = ["SessionRules"]


class SessionRules(Frozen):
    """How sessions begin, and how long those live that begin with a request.

    With `create_first` a request for a session that nobody created ends as `session_unknown`.
    `ttl` is that of a session which begins with a request; one that was created has its own.
    Either holds beside the policy's: it may ask for `create`, too, and gives the limits left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    create_first: bool = False
    ttl: SessionTtl = SessionTtl()

    @field_validator("ttl", mode="before")
    @classmethod
    def _no_unknown_key(cls, ttl: object) -> object:
        """Refuse a misspelt limit: on the wire, where `SessionTtl` is too, it is passed over."""
        if isinstance(ttl, Mapping):
            for key in ttl:
                if key not in SessionTtl.model_fields:
                    raise _unknown_key(key)
        return ttl


def _unknown_key(key: object) -> PydanticCustomError:
    kind = "extra_forbidden"  # as pydantic calls it: a file's line and the nearest key are told
    return PydanticCustomError(kind, "unknown key {key}", {"key": str(key), "path": (str(key),)})
