"""From a tool that a server lists to one of LangChain's, by `langchain-mcp-adapters`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from langchain_core.tools import StructuredTool
from langchain_mcp_adapters.interceptors import MCPToolCallRequest, MCPToolCallResult
from langchain_mcp_adapters.sessions import StdioConnection
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp import types

from millstream.agents.mcp.listing import Offered
from millstream.agents.mcp.results import message_of
from millstream.agents.mcp.server import McpServer
from millstream.agents.tools import Caller

__all__ = ["CallTool", "adapted"]

CallTool = Callable[[Mapping[str, Any], Mapping[str, Any] | None], Awaitable[types.CallToolResult]]
"""Calls a tool with arguments and `_meta`; raises `McpFailed`."""

# Never used: each call is made by the interceptor.
_NOWHERE: Final = StdioConnection(transport="stdio", command="", args=[])


def adapted(server: McpServer, offered: Offered, call: CallTool) -> StructuredTool:
    """Give a tool that calls `call`, and tells the model the answer as `message_of` says."""

    async def ask(
        request: MCPToolCallRequest,
        handler: Callable[[MCPToolCallRequest], Awaitable[MCPToolCallResult]],  # noqa: ARG001
    ) -> MCPToolCallResult:
        meta = _meta(server, getattr(request.runtime, "context", None))
        return message_of(server, offered.name, await call(request.args, meta))

    tool = convert_mcp_tool_to_langchain_tool(
        None,
        types.Tool(name=offered.name, description=offered.description, inputSchema=offered.schema),
        connection=_NOWHERE,
        tool_interceptors=[ask],
        server_name=server.name,
    )
    return cast("StructuredTool", tool)


def _meta(server: McpServer, caller: object) -> dict[str, Any] | None:
    if not server.send_caller or not isinstance(caller, Caller):
        return None
    told = {
        "tenant": caller.tenant,
        "user": caller.user_id,
        "request_id": caller.request_id,
        "session_id": caller.session_id,
        "idempotency_key": caller.idempotency_key,
    }
    return {
        f"millstream/{name}": told[name] for name in server.send_caller if told[name] is not None
    }
