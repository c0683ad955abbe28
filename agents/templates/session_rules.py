"""What a template asks of the sessions that its requests are for."""

from __future__ import annotations

from pydantic import ConfigDict

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
