"""What went wrong with a server: whether a call may have been made, and words for people."""

from __future__ import annotations

from typing import ClassVar

from millstream.agents.tools.outcomes import CallNotMade, OutcomeUnknown
from millstream.schemas.errors import MillstreamError

__all__ = ["McpFailed", "McpNotMade", "McpSessionGone", "McpUnanswered"]


class McpFailed(MillstreamError):
    """A call of an MCP server's tool, a list of its tools or a connection to it failed."""

    code: ClassVar[str] = "mcp_failed"


class McpNotMade(McpFailed, CallNotMade):
    """The server did not get the call, or refused it before it did anything."""


class McpSessionGone(McpNotMade):
    """The server knows the session no more: nothing was done, and another session may be begun."""


class McpUnanswered(McpFailed, OutcomeUnknown):
    """The server may have got the call, so whether it did what was asked is not known."""
