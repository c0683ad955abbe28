"""What requests and sessions are told apart by inside a lane."""

from __future__ import annotations

from millstream.schemas.events import RequestEvent, ResolvedRequest
from millstream.schemas.sessions.states import SessionState

RequestKey = tuple[str, str, str]
"""Tenant, user and request id: requests are one by these three."""

SessionKey = tuple[str, str, str]
"""Tenant, user and session id."""


def request_key(event: RequestEvent | ResolvedRequest) -> RequestKey:
    """Give what makes a request one and the same."""
    return (event.tenant, event.user_id, event.request_id)


def session_key(event: RequestEvent | ResolvedRequest | SessionState) -> SessionKey:
    """Give what runs are serial by."""
    return (event.tenant, event.user_id, event.session_id)
