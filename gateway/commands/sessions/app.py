"""The group `millstream sessions`, with all of its commands."""

from __future__ import annotations

from millstream.gateway.commands.sessions import changing, going_back, reading, rebuilding
from millstream.gateway.commands.sessions.options import sessions_app

__all__ = ["changing", "going_back", "reading", "rebuilding", "sessions_app"]
