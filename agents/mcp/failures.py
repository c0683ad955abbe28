"""What went wrong with a server: whether a call may have been made, and words for people."""

from __future__ import annotations

from typing import ClassVar

from millstream.schemas.errors import MillstreamError

__all__ = ["McpFailed", "McpSessionGone"]


class McpFailed(MillstreamError):
    """A call of an MCP server's tool, a list of its tools or a connection to it failed.

    `sent`: the server may have got the call, so whether it did what was asked is not known.
    """

    code: ClassVar[str] = "mcp_failed"

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class McpSessionGone(McpFailed):
    """The server knows the session no more: nothing was done, and another session may be begun."""
